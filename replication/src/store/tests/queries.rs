use super::*;

/// What the store should hold, kept naively.
#[derive(Default)]
struct Model {
    all: Vec<Stored>,
}

impl Model {
    fn pick(&self, keep: impl Fn(&Stored) -> bool) -> Vec<Stored> {
        self.all.iter().filter(|stored| keep(stored)).cloned().collect()
    }

    fn random_offset(&self, dice: &mut Dice) -> u64 {
        let at = dice.below(self.all.len() as u64) as usize;
        self.all[at].offset + dice.below(3) - 1
    }
}

fn all(found: Messages) -> Vec<Stored> {
    found.collect::<Result<_, _>>().unwrap()
}

fn both_orders(expected: &[Stored], query: impl Fn(Order) -> Messages) {
    assert_eq!(all(query(Order::Ascending)), expected);
    let backwards: Vec<Stored> = expected.iter().rev().cloned().collect();
    assert_eq!(all(query(Order::Descending)), backwards);
}

/// Each message has the terms that are found in it one by one, and no other's.
fn terms_are_told_apart(model: &Model) {
    let terms = |s: &Stored| index_terms(&s.message);
    let every: BTreeSet<Term> = model.all.iter().flat_map(terms).collect();
    for stored in &model.all {
        let own = terms(stored);
        for term in &every {
            assert_eq!(term.is_in(&stored.message), own.contains(term), "{term:?} in {stored:?}");
        }
    }
}

fn compare(reader: &Reader, model: &Model, dice: &mut Dice) {
    assert_eq!(reader.len(), model.all.len() as u64);
    let (a, b) = (model.random_offset(dice), model.random_offset(dice));
    both_orders(&model.pick(|s| s.offset >= a && s.offset < b), |order| reader.log(a..b, order).unwrap());
    both_orders(&model.pick(|s| s.offset > a), |order| reader.log(a + 1.., order).unwrap());
    for kind in ["post", "contact", "odd", "none"] {
        let of_kind = |s: &Stored| index_terms(&s.message).contains(&Term::Type(kind.to_owned()));
        both_orders(&model.pick(|s| of_kind(s) && s.offset >= a), |order| reader.by_type(kind, a.., order));
        both_orders(&model.pick(|s| of_kind(s) && s.offset < b), |order| reader.by_type(kind, ..b, order));
    }
    let is_contact = |s: &Stored| s.message.content_json().contains("\"contact\":\"@");
    both_orders(&model.pick(|s| is_contact(s) && s.offset <= b), |order| reader.contacts(..=b, order));

    let (early, late) = (1000.0 + dice.below(60) as f64, 1040.0 + dice.below(60) as f64);
    let mut timed = model.pick(|s| s.time() >= early && s.time() < late);
    timed.sort_by(|x, y| x.time().total_cmp(&y.time()).then(x.offset.cmp(&y.offset)));
    both_orders(&timed, |order| reader.by_time(early..late, order));
    for kind in ["post", "odd"] {
        let term = Term::Type(kind.to_owned());
        let of_kind = timed.iter().filter(|s| index_terms(&s.message).contains(&term));
        let of_kind: Vec<Stored> = of_kind.cloned().collect();
        both_orders(&of_kind, |order| reader.by_term_and_time(term.clone(), early..late, order).unwrap());
    }
    let of_feed: Vec<Stored> = timed.iter().filter(|s| s.message.author() == author(1)).cloned().collect();
    both_orders(&of_feed, |order| reader.feed_by_time(&author(1), early..late, order).unwrap());
    let link = Term::Link(author(2).to_string());
    let names = |s: &Stored| s.message.content_json().contains(&author(2).to_string());
    both_orders(&model.pick(names), |order| reader.by_term(link.clone(), .., order));
    for limit in [None, Some(0), Some(1), Some(dice.below(300))] {
        both_orders(&model.all, |order| reader.log(.., order).unwrap().limited(limit));
    }
    terms_are_told_apart(model);

    for n in 0..6 {
        let feed = model.pick(|s| s.message.author() == author(n));
        let from = dice.below(20);
        let tail = model.pick(|s| s.message.author() == author(n) && s.message.sequence() >= from);
        assert_eq!(all(reader.feed(&author(n), from)), tail);
        both_orders(&feed, |order| reader.feed_range(&author(n), .., order));
        assert_eq!(reader.tip(&author(n)), feed.last().map(|s| s.message.tip()));
        let held = reader.at(&author(n), from).unwrap();
        assert_eq!(held, feed.iter().find(|s| s.message.sequence() == from).cloned());
    }
    let any = &model.all[dice.below(model.all.len() as u64) as usize];
    assert_eq!(reader.get(&any.message.id()).unwrap().as_ref(), Some(any));
    assert_eq!(reader.offset_received(any.received).unwrap(), any.offset);
    let after = model.all.iter().find(|s| s.received > any.received);
    let behind = any.offset + 1;
    let offset = reader.offset_received(any.received.next_up()).unwrap();
    assert_eq!(offset, after.map_or(behind, |s| s.offset));
}

#[test]
fn all_queries_agree_with_a_naive_model_through_checkpoints_and_restarts() {
    for seed in 1..4 {
        let dir = TempDir::new().unwrap();
        let mut dice = Dice::new(seed);
        let (mut authors, mut model) = (Authors::default(), Model::default());
        let (mut writer, mut reader) = Store::open(dir.path(), &small(), &mut no_progress()).unwrap();
        for round in 0..60 {
            let batch = (0..=dice.below(20)).map(|_| authors.write_any(&mut dice)).collect();
            let appended = writer.commit(batch, 1100.0 + f64::from(round)).unwrap();
            assert_eq!(appended.refused, []);
            model.all.extend(appended.stored);
            compare(&reader, &model, &mut dice);
            if dice.below(8) == 0 {
                drop((writer, reader));
                (writer, reader) = Store::open(dir.path(), &small(), &mut no_progress()).unwrap();
                assert_eq!(*writer.opened(), OpenReport::default(), "a closed store has nothing to do again");
                compare(&reader, &model, &mut dice);
            }
        }
        let clock: BTreeMap<FeedId, u64> =
            authors.tips.iter().map(|(feed, tip)| (*feed, tip.sequence)).collect();
        assert_eq!(reader.clock(), clock);
        let newest = |feed: &FeedId| model.all.iter().rposition(|s| s.message.author() == *feed);
        let grown = reader.clock_by_growth();
        assert!(grown.is_sorted_by_key(|(feed, _)| newest(feed)), "what grew last comes last");
        assert_eq!(grown.into_iter().collect::<BTreeMap<_, _>>(), clock);
        assert!(reader.get(&MessageId::from_bytes([3; 32])).unwrap().is_none());
    }
}

#[test]
fn nothing_is_visible_before_it_is_synced() {
    let dir = TempDir::new().unwrap();
    let (mut writer, reader) = Store::open(dir.path(), &small(), &mut no_progress()).unwrap();
    let message = Authors::default().write(1, 5.0, r#"{"type":"post"}"#);
    writer.append(vec![message.clone()], 10.0).unwrap();
    assert_eq!((reader.len(), reader.tip(&author(1)), contents(&reader)), (0, None, vec![]));
    assert_eq!(writer.tip(&author(1)), Some(message.tip()));
    writer.sync().unwrap();
    assert_eq!(messages(&reader), [message]);
}

#[test]
fn receive_times_increase_even_when_the_clock_goes_back() {
    let dir = TempDir::new().unwrap();
    let mut authors = Authors::default();
    let (mut writer, reader) = Store::open(dir.path(), &small(), &mut no_progress()).unwrap();
    for now in [50.0, 50.0, 20.0, f64::NAN, 60.0] {
        writer.commit(vec![authors.write(1, 1.0, "{\"type\":\"post\"}")], now).unwrap();
    }
    drop((writer, reader));
    let (mut writer, reader) = Store::open(dir.path(), &small(), &mut no_progress()).unwrap();
    writer.commit(vec![authors.write(1, 1.0, "{\"type\":\"post\"}")], 10.0).unwrap();
    let times: Vec<f64> = contents(&reader).iter().map(|stored| stored.received).collect();
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
    assert_eq!((times[0], times[4]), (50.0, 60.0));
}

#[test]
fn what_does_not_continue_its_feed_is_refused_and_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let (mut writer, reader) = Store::open(dir.path(), &small(), &mut no_progress()).unwrap();
    let mut authors = Authors::default();
    let one = authors.write(1, 1.0, r#"{"type":"post"}"#);
    let mut fork = authors.clone();
    let two = authors.write(1, 2.0, r#"{"type":"post"}"#);
    let other_two = fork.write(1, 2.5, r#"{"type":"fork"}"#);
    let other_three = fork.write(1, 3.0, r#"{"type":"fork"}"#);
    let three = authors.write(1, 3.0, r#"{"type":"post"}"#);
    let batch = vec![two.clone(), one.clone(), one.clone(), three.clone(), two.clone(), other_two.clone()];
    let appended = writer.commit(batch, 9.0).unwrap();
    let stored: Vec<Message> = appended.stored.into_iter().map(|stored| stored.message).collect();
    assert_eq!(stored, [one.clone(), two.clone()]);
    let why: Vec<Refusal> = appended.refused.into_iter().map(|refused| refused.why).collect();
    let gap = |expected| Refusal::Gap { expected };
    assert_eq!(why, [gap(1), Refusal::Known, gap(2), Refusal::Forked { held: two.tip() }]);

    let appended = writer.commit(vec![other_three, other_two, three.clone()], 9.0).unwrap();
    let why: Vec<Refusal> = appended.refused.into_iter().map(|refused| refused.why).collect();
    let forked = Refusal::Forked { held: two.tip() };
    assert_eq!(why, [forked, forked]);
    assert_eq!(messages(&reader), [one, two, three]);
}

#[test]
fn readers_see_whole_prefixes_while_the_writer_goes_on() {
    let dir = TempDir::new().unwrap();
    let (mut writer, reader) = Store::open(dir.path(), &small(), &mut no_progress()).unwrap();
    let mut authors = Authors::default();
    let expected: Vec<Message> =
        (0..600).map(|i| authors.write(i as u8 % 3, 1.0, "{\"type\":\"post\"}")).collect();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let (reader, expected) = (reader.clone(), &expected);
                scope.spawn(move || {
                    let mut seen = 0;
                    while seen < expected.len() {
                        let now = messages(&reader);
                        assert!(now.len() >= seen, "messages do not go away");
                        assert_eq!(now, expected[..now.len()]);
                        let posts = reader.by_type("post", .., Order::Descending).count();
                        assert!(posts >= now.len());
                        if let Some(last) = now.last() {
                            assert_eq!(reader.get(&last.id()).unwrap().unwrap().message, *last);
                            assert_eq!(
                                reader.at(&last.author(), last.sequence()).unwrap().unwrap().message,
                                *last
                            );
                        }
                        seen = now.len();
                    }
                })
            })
            .collect();
        for batch in expected.chunks(4) {
            writer.commit(batch.to_vec(), 5.0).unwrap();
        }
        for reader in readers {
            reader.join().unwrap();
        }
    });
}

#[test]
fn a_message_in_the_future_is_ordered_by_its_reception() {
    assert_eq!(resolved_time(10.0, 11.0), 10.0);
    assert_eq!(resolved_time(10.0, 9.5), 9.5);
    assert_eq!(resolved_time(10.0, -3.0), -3.0);
    assert_eq!(resolved_time(10.0, 0.0), 10.0);
    assert_eq!(resolved_time(10.0, f64::NAN), 10.0);
}

#[test]
fn a_store_that_is_open_is_not_opened_again() {
    let dir = TempDir::new().unwrap();
    let (writer, reader) = Store::open(dir.path(), &small(), &mut no_progress()).unwrap();
    let again = Store::open(dir.path(), &small(), &mut no_progress());
    assert!(matches!(again, Err(OpenError::InUse { .. })));
    assert!(matches!(
        Store::check(dir.path(), &CheckOptions::default(), &mut no_progress()),
        Err(OpenError::InUse { .. })
    ));
    drop(writer);
    assert!(Store::open(dir.path(), &small(), &mut no_progress()).is_err(), "a reader still reads it");
    drop(reader);
    Store::open(dir.path(), &small(), &mut no_progress()).unwrap();
}
