//! A peer that holds a key, and breaks the protocol at each layer.

use super::*;

fn config() -> SessionConfig {
    SessionConfig { limits: Limits { max_body: 1000, ..Limits::default() }, ..SessionConfig::default() }
}

async fn ended(end: &End) -> Closed {
    timeout(PATIENCE, end.session.closed()).await.unwrap()
}

#[tokio::test]
async fn garbage_in_place_of_a_box_ends_the_session() {
    let mut tasks = JoinSet::new();
    let (mut raw, end) = Raw::connect(&mut tasks, config()).await;
    raw.line.write_all(&[0x55; 100]).await.unwrap();
    let closed = ended(&end).await;
    assert_eq!(closed, Closed::BadBox(BoxError::Header));
    assert!(closed.blames_peer());
    assert_eq!(closed.label(), "bad_box");
    let mut rest = Vec::new();
    raw.line.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
}

#[tokio::test]
async fn what_came_before_a_bad_box_counts() {
    let mut tasks = JoinSet::new();
    let (mut raw, mut end) = Raw::connect(&mut tasks, config()).await;
    let packet = Packet {
        stream: false,
        end: false,
        request: 1,
        body: Body::json_raw(&br#"{"name":["x"],"args":[]}"#[..]),
    };
    let frame = Frame::Packet(packet);
    let mut out = BytesMut::new();
    raw.sealer.seal(&[&frame.parts().0, frame.parts().1].concat(), &mut out);
    out.extend_from_slice(&[0; 60]);
    raw.line.write_all(&out).await.unwrap();
    assert_eq!(ended(&end).await, Closed::BadBox(BoxError::Header));
    assert_eq!(once_call(&mut end).await.0.name, ["x"]);
    assert!(end.calls.next().await.is_none());
}

#[tokio::test]
async fn a_line_cut_without_goodbye_is_a_hangup() {
    for cut in [0, 20, 40] {
        let mut tasks = JoinSet::new();
        let (mut raw, end) = Raw::connect(&mut tasks, config()).await;
        let mut out = BytesMut::new();
        raw.sealer.seal(b"half a packet", &mut out);
        raw.line.write_all(&out[..cut]).await.unwrap();
        drop(raw);
        let closed = ended(&end).await;
        assert_eq!((closed, closed.label()), (Closed::Hangup, "hangup"));
        assert!(!closed.blames_peer());
    }
}

#[tokio::test]
async fn a_goodbye_of_the_box_stream_alone_is_a_goodbye() {
    let mut tasks = JoinSet::new();
    let (raw, end) = Raw::connect(&mut tasks, config()).await;
    let (mut line, mut out) = (raw.line, BytesMut::new());
    raw.sealer.goodbye(&mut out);
    line.write_all(&out).await.unwrap();
    assert_eq!(ended(&end).await, Closed::Goodbye);
}

#[tokio::test]
async fn too_long_a_body_ends_the_session_by_its_header() {
    let mut tasks = JoinSet::new();
    let (mut raw, end) = Raw::connect(&mut tasks, config()).await;
    raw.write(&[0x0a, 0, 0, 0x03, 0xe9, 0, 0, 0, 1]).await;
    let closed = ended(&end).await;
    assert_eq!(closed, Closed::BadFrame(DecodeError::Oversize { len: 1001, limit: 1000 }));
    assert_eq!(closed.label(), "oversize");
}

#[tokio::test]
async fn a_body_kind_that_does_not_exist_ends_the_session() {
    let mut tasks = JoinSet::new();
    let (mut raw, end) = Raw::connect(&mut tasks, config()).await;
    raw.write(&[0x03, 0, 0, 0, 1, 0, 0, 0, 1, 0]).await;
    let closed = ended(&end).await;
    assert_eq!((closed, closed.label()), (Closed::BadFrame(DecodeError::UnknownKind), "bad_frame"));
}

#[tokio::test]
async fn a_packet_without_a_body_is_answered_with_a_goodbye() {
    let mut tasks = JoinSet::new();
    let (mut raw, end) = Raw::connect(&mut tasks, config()).await;
    raw.write(&[0x09, 0, 0, 0, 0, 0, 0, 0, 5]).await;
    assert_eq!(raw.read_frame().await, Frame::Goodbye);
    assert_eq!(ended(&end).await, Closed::Goodbye);
}

#[tokio::test]
async fn a_malformed_call_harms_no_other() {
    let mut tasks = JoinSet::new();
    let (mut raw, mut end) = Raw::connect(&mut tasks, config()).await;
    raw.write_packet(1, false, r#"{"name":["x"]}"#).await;
    raw.write_packet(2, true, "not json").await;
    raw.write_packet(3, false, r#"{"name":["y"],"args":[]}"#).await;
    for (request, stream) in [(-1, false), (-2, true)] {
        match raw.read_frame().await {
            Frame::Packet(packet) => {
                assert_eq!((packet.request, packet.stream, packet.end), (request, stream, true));
            }
            Frame::Goodbye => panic!("goodbye"),
        }
    }
    let (call, reply) = once_call(&mut end).await;
    assert_eq!(call.name, ["y"]);
    reply.ok(body("fine")).await;
    let expected = Packet { stream: false, end: false, request: -3, body: body("fine") };
    assert_eq!(raw.read_frame().await, Frame::Packet(expected));
}

/// Some clients read exactly one box for a header.
#[tokio::test]
async fn a_header_travels_in_a_box_of_its_own() {
    let mut tasks = JoinSet::new();
    let (mut raw, mut end) = Raw::connect(&mut tasks, config()).await;
    raw.write_packet(1, false, r#"{"name":["x"],"args":[]}"#).await;
    once_call(&mut end).await.1.ok(Body::binary(vec![1; 5000])).await;
    let mut line = [BytesMut::new(), BytesMut::new()];
    for (box_len, want) in [(HEADER_LEN + 9, 9), (HEADER_LEN + 4096, 4096), (HEADER_LEN + 904, 904)] {
        let mut bytes = vec![0; box_len];
        raw.line.read_exact(&mut bytes).await.unwrap();
        line[0].extend_from_slice(&bytes);
        let [sealed, plain] = &mut line;
        plain.clear();
        raw.opener.open(sealed, plain).unwrap();
        assert_eq!((sealed.len(), plain.len()), (0, want));
    }
}

#[tokio::test]
async fn a_flood_of_bad_calls_by_a_peer_that_reads_nothing_is_not_read_for_ever() {
    let mut tasks = JoinSet::new();
    let (raw, end) = Raw::connect(&mut tasks, config()).await;
    let Raw { line, mut sealer, .. } = raw;
    let (_unread, mut line) = tokio::io::split(line);
    let flooding = async {
        for request in 1.. {
            let body = Body::json_raw(&b"{}"[..]);
            let frame = Frame::Packet(Packet { stream: false, end: false, request, body });
            let mut out = BytesMut::new();
            sealer.seal(&[&frame.parts().0, frame.parts().1].concat(), &mut out);
            line.write_all(&out).await.unwrap();
        }
    };
    let stalled = async {
        // Each turn lets the flood and the session move; the count must come to rest.
        let (mut seen, mut quiet) = (0, 0);
        while quiet < 1000 {
            tokio::task::yield_now().await;
            let now = end.session.traffic().packets_in();
            quiet = if now == seen { quiet + 1 } else { 0 };
            seen = now;
        }
        seen
    };
    tokio::select! {
        () = flooding => unreachable!("a flood without end"),
        seen = stalled => assert!((1000..20_000).contains(&seen), "{seen}"),
    }
    assert_eq!(end.session.closed_now(), None);
}
