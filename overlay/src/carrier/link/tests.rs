//! The shell on pipes in place of libp2p streams.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::*;
use crate::carrier::Frame;
use crate::carrier::machine::Input;
use crate::conn::tests::{info, key, local};
use crate::conn::{self, Direction, LinkInfo};

const SID: SessionId = SessionId([3; 16]);
const PIPE: usize = 64 * 1024;
/// The first frame.
const OPEN: usize = 19;

struct End {
    link: Option<CarrierLink>,
    mobile: Mobile,
    news: mpsc::Receiver<(MobileId, News)>,
}

/// Both ends of a session, and the pipe that it begins on. OPEN has been read.
struct Bench {
    i: End,
    r: End,
    budget: Arc<Budget>,
    runners: JoinSet<()>,
    next: u32,
}

fn ends() -> Ends {
    Ends { initiator: Box::new([1]), responder: Box::new([2]) }
}

impl Bench {
    async fn armed() -> Self {
        let bench = Self::fresh().await;
        for end in [&bench.i, &bench.r] {
            end.mobile.0.with(|state| state.machine.arm(ResumeKey::derive(&[9; 32], ends())));
        }
        bench
    }

    async fn fresh() -> Self {
        let (ours, mut theirs) = duplex(PIPE);
        Self::on(ours, async move {
            theirs.read_exact(&mut [0; OPEN]).await.unwrap();
            theirs
        })
        .await
    }

    /// The initiator begins on `ours`; the responder on what there is when OPEN has been read.
    async fn on(ours: DuplexStream, theirs: impl Future<Output = DuplexStream>) -> Self {
        let (mut runners, budget) = (JoinSet::new(), Arc::new(Budget::default()));
        let mut end = |role, first: DuplexStream| {
            let (told, news) = mpsc::channel(64);
            let id = MobileId(1);
            let budget = Arc::clone(&budget);
            let first = Box::new(first);
            let opening = Opening { id, role, sid: SID, ends: ends(), budget, first, meter: None };
            let (link, mobile, runner) = open(opening, told);
            runners.spawn(runner);
            End { link: Some(link), mobile, news }
        };
        let i = end(Role::Initiator, ours);
        let r = end(Role::Responder, theirs.await);
        Self { i, r, budget, runners, next: 1 }
    }

    /// Moves the session to a new pipe, as the swarm does it; the initiator's news of it. `None` if the session is
    /// over.
    async fn attach(&mut self) -> Option<News> {
        let (ours, mut theirs) = duplex(PIPE);
        let no = StreamNo(self.next);
        self.next += 1;
        self.i.mobile.bring(Arrival::Stream { no, stream: Box::new(ours), meter: None, claim: None });
        let mut line = bytes::BytesMut::zeroed(63);
        theirs.read_exact(&mut line).await.ok()?;
        let Some(Frame::Attach(claim)) = Frame::decode(&mut line).unwrap() else { panic!("an ATTACH") };
        let (stream, claim) = (Box::new(theirs), Some(claim));
        self.r.mobile.bring(Arrival::Stream { no, stream, meter: None, claim });
        Some(self.i.news_of_move().await)
    }
}

impl End {
    fn link(&mut self) -> &mut CarrierLink {
        self.link.as_mut().unwrap()
    }

    async fn news_of_move(&mut self) -> News {
        loop {
            let news = self.news().await;
            if matches!(news, News::Moved(..) | News::NotMoved(_) | News::Ended(_)) {
                return news;
            }
        }
    }

    async fn news(&mut self) -> News {
        let told = tokio::time::timeout(Duration::from_secs(100), self.news.recv()).await;
        told.expect("there are news in time").expect("the runner tells").1
    }
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 7 % 251) as u8).collect()
}

#[tokio::test]
async fn a_transfer_goes_on_over_many_paths() {
    const LEN: usize = 4_000_000;
    let mut bench = Bench::armed().await;
    let (mut reader, mut writer) = (bench.i.link.take().unwrap(), bench.r.link.take().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        writer.write_all(&bytes(LEN)).await.unwrap();
        writer.shutdown().await.unwrap();
        // Until the other end has all of it.
        assert_eq!(writer.read(&mut [0]).await.unwrap(), 0);
    });
    tasks.spawn(async move {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).await.unwrap();
        assert!(all == bytes(LEN), "{} bytes came", all.len());
        reader.shutdown().await.unwrap();
    });
    let mut moves = 0;
    while let Some(News::Moved(_, Move { .. })) = bench.attach().await {
        moves += 1;
        if moves == 20 {
            break;
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert!(moves > 1, "it was over after {moves} moves");
}

#[tokio::test(start_paused = true)]
async fn a_lost_path_is_told_and_the_next_one_taken() {
    let mut bench = Bench::armed().await;
    assert_eq!(bench.i.news().await, News::Armed);
    // The first pipe ends with its runner's lane: as if the connection had closed.
    bench.i.mobile.0.with(|state| {
        let now = now();
        state.machine.handle(now, Input::Lost(StreamNo(0)));
    });
    assert_eq!(bench.i.news().await, News::Detached);
    bench.i.link().write_all(b"kept").await.unwrap();
    assert!(matches!(bench.attach().await, Some(News::Moved(StreamNo(1), _))));
    let mut got = [0; 4];
    bench.r.link().read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"kept");
    drop(bench.i.link.take());
    assert_eq!(bench.r.link().read(&mut got).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_loses_its_stream_fails_and_a_session_without_a_path_times_out() {
    let mut bench = Bench::fresh().await;
    bench.i.mobile.0.with(|state| state.machine.handle(now(), Input::Lost(StreamNo(0))));
    assert_eq!(bench.i.link().read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(bench.i.news().await, News::Ended(super::End::Unarmed));
    assert_eq!(bench.i.link().write(b"x").await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn what_waits_counts_in_the_budget_until_the_session_is_gone() {
    let mut bench = Bench::armed().await;
    bench.i.link().write_all(&[1; 300_000]).await.unwrap();
    assert!(MAX_UNACKNOWLEDGED_IN_ALL - bench.budget.left() >= 300_000);
    let Bench { i, r, budget, mut runners, .. } = bench;
    drop((i, r));
    runners.shutdown().await;
    assert_eq!(budget.left(), MAX_UNACKNOWLEDGED_IN_ALL);
}

#[tokio::test]
async fn a_session_that_is_idle_takes_little_memory() {
    let future = size_of::<Runner>() + size_of::<Lane>() + size_of::<Shared>();
    assert!(future < 2500, "{future}");
}

/// Passes on what comes, both ways, until so many bytes have come from the first; then it cuts the line.
async fn cut_after(mut most: usize, mut one: DuplexStream, mut other: DuplexStream) {
    let (mut there, mut back) = ([0; 64], [0; 64]);
    while most > 0 {
        let room = there.len().min(most);
        tokio::select! {
            read = one.read(&mut there[..room]) => {
                let read = read.unwrap();
                other.write_all(&there[..read]).await.unwrap();
                most -= read;
            }
            read = other.read(&mut back) => {
                let read = read.unwrap();
                one.write_all(&back[..read]).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_handshake_that_is_cut_in_its_third_message_fails_at_both_ends_at_once() {
    // DATA with hello, and DATA with half of auth.
    const CUT: usize = (11 + 64) + (11 + 56);
    let (ours, mut middle) = duplex(PIPE);
    let (far, theirs) = duplex(PIPE);
    let mut line = JoinSet::new();
    let mut bench = Bench::on(ours, async {
        middle.read_exact(&mut [0; OPEN]).await.unwrap();
        line.spawn(cut_after(CUT, middle, far));
        theirs
    })
    .await;
    let (client, server) = (local(1), local(2));
    let link = |end: &mut End, direction| {
        let info = LinkInfo { mobile: Some(end.mobile.clone()), ..info(direction) };
        (end.link.take().unwrap(), info)
    };
    let (i, info_i) = link(&mut bench.i, Direction::Outbound);
    let (r, info_r) = link(&mut bench.r, Direction::Inbound);
    let both = async {
        tokio::join!(conn::connect(i, info_i, &client, key(&server)), conn::accept(r, info_r, &server))
    };
    let (i, r) =
        tokio::time::timeout(Duration::from_secs(10), both).await.expect("neither waits for its grace");
    assert!(i.is_err() && r.is_err());
    for end in [&mut bench.i, &mut bench.r] {
        assert_eq!(end.news().await, News::Ended(super::End::Unarmed));
    }
    // It is over: there is nothing that could be moved.
    assert!(bench.attach().await.is_none());
}
