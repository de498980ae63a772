use std::time::{Duration, Instant};

use super::fetching::WINDOW;
use super::*;

fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to start from")]
    Instant::now()
}

fn id(n: u64) -> BlobId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&n.to_be_bytes());
    bytes[31] = 1;
    BlobId::from_bytes(bytes)
}

fn peer(n: u64) -> FeedId {
    FeedId::from_bytes(id(n).to_bytes())
}

const A: Link = Link(1);
const B: Link = Link(2);
const C: Link = Link(3);

/// The machine and a clock, with sessions 1 to `links`, each of a near peer.
struct Test {
    wants: Wants,
    now: Instant,
}

impl Test {
    fn new(links: u64) -> Self {
        Self::with(WantsConfig::default(), links)
    }

    fn with(config: WantsConfig, links: u64) -> Self {
        let mut test = Self { wants: Wants::new(config), now: start() };
        for n in 1..=links {
            test.hear(Input::Connected { link: Link(n), peer: peer(n), near: true });
        }
        test
    }

    fn hear(&mut self, input: Input) -> Vec<Output> {
        self.wants.handle(self.now, input);
        self.drain()
    }

    fn drain(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.wants.poll_output()).collect()
    }

    /// Lets time pass, and every timeout on the way.
    fn pass(&mut self, time: Duration) -> Vec<Output> {
        let (end, mut outputs) = (self.now + time, Vec::new());
        while let Some(at) = self.wants.poll_timeout().filter(|at| *at <= end) {
            assert!(at >= self.now || self.now >= at);
            self.now = self.now.max(at);
            self.wants.handle_timeout(self.now);
            outputs.extend(self.drain());
        }
        self.now = end;
        outputs
    }

    fn asks(&mut self, link: Link, id: BlobId, hops: u32) -> Vec<Output> {
        self.hear(Input::said(link, id, Said::Wants(hops)))
    }

    fn offers(&mut self, link: Link, id: BlobId, size: u64) -> Vec<Output> {
        self.hear(Input::said(link, id, Said::Has(size)))
    }

    fn want(&mut self, id: BlobId) -> Vec<Output> {
        self.hear(Input::Want { id, own: true })
    }

    fn ended(&mut self, get: u64, result: Result<u64, Fault>) -> Vec<Output> {
        self.hear(Input::Ended { get: GetId(get), result })
    }

    fn current(&self) -> Vec<(BlobId, Said)> {
        self.wants.current().collect()
    }
}

fn tell(id: BlobId, said: Said) -> Output {
    Output::Tell { id, said }
}

/// Which fetches begin: number, session and blob.
fn gets(outputs: &[Output]) -> Vec<(u64, Link, BlobId)> {
    let get = |output: &Output| match output {
        Output::Get { get, link, id, .. } => Some((get.0, *link, *id)),
        Output::Say { .. }
        | Output::Tell { .. }
        | Output::Cancel { .. }
        | Output::Have { .. }
        | Output::Pushed { .. } => None,
    };
    outputs.iter().filter_map(get).collect()
}

/// The one fetch that begins.
fn get(outputs: &[Output]) -> (u64, Link) {
    let [(get, link, _)] = gets(outputs)[..] else { panic!("{outputs:?}") };
    (get, link)
}

#[test]
fn a_want_goes_to_everybody_and_its_offer_is_fetched() {
    let mut test = Test::new(2);
    assert_eq!(test.want(id(1)), [tell(id(1), Said::Wants(1))]);
    assert_eq!(test.current(), [(id(1), Said::Wants(1))]);
    let fetch = test.offers(B, id(1), 70);
    let (number, _) = get(&fetch);
    assert_eq!(fetch, [Output::Get { get: GetId(number), link: B, id: id(1), max: 70 }]);
    test.now += Duration::from_secs(3);
    let have = Output::Have { id: id(1), why: Why::Own, after: Duration::from_secs(3) };
    assert_eq!(test.ended(number, Ok(70)), [have, tell(id(1), Said::Has(70))]);
    assert_eq!((test.current(), test.wants.counts()), (vec![], Counts::default()));
}

#[test]
fn who_has_it_says_so_to_who_asks_and_to_nobody_else() {
    let mut test = Test::new(2);
    let said = test.hear(Input::Said { link: B, id: id(1), said: Said::Wants(3), stored: Some(9) });
    assert_eq!(said, [Output::Say { link: B, id: id(1), said: Said::Has(9) }]);
    let empty = Input::Said { link: B, id: EMPTY, said: Said::Wants(1), stored: Some(0) };
    assert_eq!(test.hear(empty), [], "zero would mean nothing");
    assert_eq!(test.current(), []);
}

#[test]
fn sympathy_goes_as_far_as_in_js() {
    let mut test = Test::new(1);
    assert_eq!(test.asks(A, id(1), 1), [tell(id(1), Said::Wants(2))]);
    assert_eq!(test.asks(A, id(2), 2), [tell(id(2), Said::Wants(3))]);
    assert_eq!(test.asks(A, id(3), 3), []);
    assert_eq!(test.asks(A, id(3), u32::MAX), []);
    assert_eq!(test.asks(A, id(2), 1), [tell(id(2), Said::Wants(2))], "a nearer want is said again");
    assert_eq!(test.asks(A, id(2), 2), [], "a farther one is not");
    assert_eq!(test.want(id(2)), [tell(id(2), Said::Wants(1))]);
    assert_eq!(test.asks(A, id(2), 1), []);
    let mut none = Test::with(WantsConfig { sympathy: 0, ..WantsConfig::default() }, 1);
    assert_eq!(none.asks(A, id(1), 1), []);
}

#[test]
fn what_is_fetched_out_of_sympathy_flows_back() {
    let mut test = Test::new(2);
    test.asks(A, id(1), 1);
    let (number, link) = get(&test.offers(B, id(1), 5));
    assert_eq!(link, B);
    let outputs = test.ended(number, Ok(5));
    assert_eq!(outputs[1], tell(id(1), Said::Has(5)), "{outputs:?}");
}

#[test]
fn the_next_source_is_asked_when_one_fails_and_the_liar_never_again() {
    for fault in [Fault::Hash, Fault::Size] {
        let mut test = Test::new(2);
        test.want(id(1));
        let (first, _) = get(&test.offers(A, id(1), 10));
        assert_eq!(test.offers(B, id(1), 10), [], "one source at a time");
        let (second, link) = get(&test.ended(first, Err(fault)));
        assert_eq!(link, B);
        assert_eq!(test.ended(second, Err(Fault::Refused)), [], "nobody is left");
        assert_eq!(test.offers(A, id(1), 10), [], "it lied");
        test.hear(Input::Disconnected { link: A });
        let again = Link(9);
        test.hear(Input::Connected { link: again, peer: peer(1), near: true });
        assert_eq!(test.offers(again, id(1), 10), [], "over whatever session");
        test.want(id(2));
        let (_, link) = get(&test.offers(again, id(2), 10));
        assert_eq!(link, again, "other blobs are not affected");
        assert_eq!(get(&test.offers(B, id(1), 10)).1, B, "an error is no lie");
    }
}

#[test]
fn who_stalls_or_trickles_is_given_up_and_the_next_is_asked() {
    let mut test = Test::new(2);
    test.want(id(1));
    let (first, _) = get(&test.offers(A, id(1), 1 << 20));
    test.offers(B, id(1), 1 << 20);
    for _ in 0..4 {
        test.hear(Input::Progress { get: GetId(first), bytes: 64 * 1024 });
        assert_eq!(test.pass(WINDOW - Duration::from_millis(1)), []);
    }
    test.hear(Input::Progress { get: GetId(first), bytes: 1 });
    let outputs = test.pass(Duration::from_millis(1));
    assert_eq!(outputs[0], Output::Cancel { get: GetId(first), why: Fault::Slow });
    let (second, link) = get(&outputs);
    assert_eq!(link, B);
    assert_eq!(test.ended(first, Ok(1)), [], "it is over");
    assert_eq!(test.offers(A, id(1), 1 << 20), []);
    assert_eq!(test.ended(second, Err(Fault::Refused)), []);
    assert_eq!(test.offers(A, id(1), 1 << 20), [], "not over that session");
    test.hear(Input::Disconnected { link: A });
    test.hear(Input::Connected { link: C, peer: peer(1), near: true });
    assert_eq!(get(&test.offers(C, id(1), 1 << 20)).1, C, "its line may be better now");
}

#[test]
fn blobs_that_are_too_large_are_not_fetched() {
    let config = WantsConfig { max: 1000, max_linked: 100, ..WantsConfig::default() };
    let mut test = Test::with(config, 2);
    test.want(id(1));
    test.hear(Input::Want { id: id(2), own: false });
    assert_eq!(test.offers(A, id(1), 1000), []);
    assert_eq!(test.offers(A, id(2), 100), []);
    assert_eq!(get(&test.offers(B, id(1), 999)).1, B);
    assert_eq!(get(&test.want(id(2))[1..]).1, A, "its owner asks for it now");
    let legacy = test.hear(Input::Offered { link: A, id: id(3) });
    assert_eq!(legacy, []);
    let outputs = test.want(id(3));
    assert!(matches!(outputs[1], Output::Get { link: A, max: 999, .. }), "{outputs:?}");
}

#[test]
fn a_session_that_ends_takes_its_offers_and_fetches_along() {
    let mut test = Test::new(2);
    test.want(id(1));
    test.want(id(2));
    let (first, _) = get(&test.offers(A, id(1), 10));
    test.offers(B, id(1), 10);
    let outputs = test.hear(Input::Disconnected { link: A });
    assert_eq!(outputs[0], Output::Cancel { get: GetId(first), why: Fault::Gone });
    assert_eq!(get(&outputs).1, B);
    test.hear(Input::Disconnected { link: B });
    assert!(test.wants.offers.is_empty() && test.wants.gets.is_empty());
    assert_eq!(test.wants.counts().own, 2, "wants stay");
}

#[test]
fn different_blobs_are_fetched_side_by_side_and_own_wants_first() {
    let mut test = Test::new(2);
    for n in 0..20 {
        test.hear(Input::Want { id: id(n), own: n == 19 });
    }
    let outputs: Vec<_> = (0..20).flat_map(|n| test.offers(A, id(n), 10)).collect();
    assert_eq!(gets(&outputs).len(), MAX_GETS_PER_LINK);
    let (first, ..) = gets(&outputs)[0];
    let (_, _, next) = gets(&test.ended(first, Ok(10)))[0];
    assert_eq!(next, id(19));
    let (_, link, next) = gets(&test.offers(B, id(10), 10))[0];
    assert_eq!((link, next), (B, id(10)), "a busy session does not hold up another");
}

#[test]
fn no_more_than_so_many_fetches_run() {
    let mut test = Test::new(30);
    let mut running = 0;
    for n in 0..30 {
        test.want(id(n));
        running += gets(&test.offers(Link(n + 1), id(n), 10)).len();
    }
    assert_eq!((running, test.wants.counts().gets), (MAX_GETS, MAX_GETS));
}

#[test]
fn a_full_disk_is_left_alone_for_a_while() {
    let mut test = Test::new(1);
    test.want(id(1));
    let (first, _) = get(&test.offers(A, id(1), 10));
    assert_eq!(test.ended(first, Err(Fault::Disk)), []);
    test.want(id(2));
    assert_eq!(test.offers(A, id(2), 10), []);
    assert_eq!(gets(&test.pass(Duration::from_secs(59))), []);
    assert_eq!(gets(&test.pass(Duration::from_secs(1))).len(), 2, "it was nobody's fault");
}

#[test]
fn without_room_only_own_wants_are_fetched() {
    let mut test = Test::new(1);
    test.hear(Input::Room(false));
    test.asks(A, id(1), 1);
    assert_eq!(test.offers(A, id(1), 10), []);
    test.want(id(2));
    assert_eq!(gets(&test.offers(A, id(2), 10)).len(), 1);
    assert_eq!(gets(&test.hear(Input::Room(true))).len(), 1);
}

#[test]
fn an_offer_that_comes_before_the_want_is_remembered() {
    let mut test = Test::new(1);
    test.offers(A, id(1), 10);
    assert_eq!(gets(&test.want(id(1))).len(), 1);
}

#[test]
fn what_is_wanted_for_others_ends_and_own_wants_are_said_again() {
    let mut test = Test::new(1);
    test.asks(A, id(1), 1);
    test.want(id(2));
    test.hear(Input::Want { id: id(3), own: false });
    assert_eq!(test.pass(SYMPATHY_TIME / 2 - Duration::from_secs(1)), []);
    let again = test.pass(Duration::from_secs(1));
    assert_eq!(again, [tell(id(2), Said::Wants(1)), tell(id(3), Said::Wants(1))]);
    assert_eq!(test.asks(A, id(1), 1), [tell(id(1), Said::Wants(2))], "it is passed on again, too");
    test.pass(SYMPATHY_TIME);
    assert_eq!(test.current(), [(id(2), Said::Wants(1)), (id(3), Said::Wants(1))]);
    test.pass(LINKED_TIME);
    assert_eq!(test.current(), [(id(2), Said::Wants(1))]);
}

#[test]
fn a_million_wants_of_one_peer_fill_its_share_and_no_more() {
    let mut test = Test::new(1);
    test.hear(Input::Connected { link: B, peer: peer(2), near: false });
    for n in 0..1_000_000 {
        test.asks(A, id(n), 1);
    }
    assert_eq!(test.wants.counts().asked_near, MAX_ASKED_NEAR);
    for n in 0..10_000 {
        test.asks(B, id(2_000_000 + n), 1);
    }
    assert_eq!(test.wants.counts().asked_strangers, MAX_ASKED_STRANGER);
    test.hear(Input::Disconnected { link: B });
    test.hear(Input::Connected { link: C, peer: peer(2), near: false });
    assert_eq!(test.asks(C, id(3_000_000), 1), [], "a new session is no new peer");
    assert!(!test.want(id(4_000_000)).is_empty(), "own wants are not affected");
}

#[test]
fn many_strangers_leave_the_share_of_near_peers_alone() {
    let mut test = Test::new(1);
    for n in 10..200 {
        test.hear(Input::Connected { link: Link(n), peer: peer(n), near: false });
        (0..MAX_ASKED_STRANGER as u64).for_each(|i| drop(test.asks(Link(n), id(n * 1000 + i), 1)));
    }
    assert_eq!(test.wants.counts().asked_strangers, MAX_ASKED);
    assert_eq!(test.asks(A, id(1), 1).len(), 1);
}

#[test]
fn a_million_offers_of_one_peer_are_forgotten_but_for_the_newest() {
    let mut test = Test::new(1);
    for n in 0..1_000_000 {
        test.offers(A, id(n), 10);
    }
    assert!(test.wants.offers.len() <= 256);
    assert_eq!(gets(&test.want(id(999_999))).len(), 1);
    assert_eq!(gets(&test.want(id(0))), []);
}

#[test]
fn links_beyond_the_limit_take_the_place_of_the_oldest() {
    let mut test = Test::new(0);
    for n in 0..MAX_LINKED as u64 + 5 {
        test.hear(Input::Want { id: id(n), own: false });
    }
    assert_eq!(test.wants.counts().linked, MAX_LINKED);
    assert_eq!((test.wants.why(&id(4)), test.wants.why(&id(5))), (None, Some(Why::Linked)));
}

#[test]
fn a_push_is_a_want_until_enough_peers_have_it() {
    let mut test = Test::new(4);
    assert_eq!(test.hear(Input::Push { id: id(1), on: true }), [tell(id(1), Said::Wants(1))]);
    assert_eq!(test.current(), [(id(1), Said::Wants(1))]);
    assert_eq!(test.offers(A, id(1), 10), [], "we have it ourselves");
    assert_eq!(test.offers(A, id(1), 10), [], "the same peer counts once");
    assert_eq!(test.offers(B, id(1), 10), []);
    assert_eq!(test.offers(C, id(1), 10), [Output::Pushed { id: id(1) }]);
    assert_eq!(test.current(), []);
}

#[test]
fn a_stingy_node_answers_for_what_it_pushes_only() {
    let mut test = Test::with(WantsConfig { stingy: true, ..WantsConfig::default() }, 1);
    let asked = |id| Input::Said { link: A, id, said: Said::Wants(1), stored: Some(10) };
    assert_eq!(test.hear(asked(id(1))), []);
    assert_eq!(test.asks(A, id(2), 1), []);
    test.hear(Input::Push { id: id(1), on: true });
    assert_eq!(test.hear(asked(id(1))).len(), 1);
}

#[test]
fn a_blob_that_is_added_while_it_is_fetched_ends_the_fetch() {
    let mut test = Test::new(1);
    test.want(id(1));
    let (first, _) = get(&test.offers(A, id(1), 10));
    let outputs = test.hear(Input::Stored { id: id(1), size: 10 });
    assert_eq!(outputs[0], Output::Cancel { get: GetId(first), why: Fault::Gone });
    assert!(matches!(outputs[1], Output::Have { .. }));
    assert_eq!(test.wants.counts(), Counts::default());
}

#[test]
fn ten_thousand_wants_cost_little_to_hold_and_to_say_again() {
    let mut test = Test::new(8);
    (0..10_000).for_each(|n| drop(test.want(id(n))));
    let outputs = test.pass(RENEW);
    assert_eq!(outputs.len(), 10_000);
    // What a want takes, and about what its entries of maps do: 10 MB in all would be too much.
    assert!(size_of::<Want>() + 3 * 64 < 1000);
}
