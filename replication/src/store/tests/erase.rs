use super::*;

const SECRET: &str = "what nobody is to read any more";

/// Three feeds; the content of one message is to go.
fn written(disk: &FakeDisk, dir: &Path) -> (Writer, Reader, Authors, Vec<Message>) {
    let (mut writer, reader) = open_fake(disk, dir).unwrap();
    let mut authors = Authors::default();
    let mut batch = Vec::new();
    for n in 0..30_u8 {
        let text = if n == 13 { SECRET } else { "hello" };
        batch.push(authors.write(n % 3, f64::from(n), &format!(r#"{{"type":"post","text":"{text}"}}"#)));
    }
    for part in batch.chunks(5) {
        writer.commit(part.to_vec(), 2000.0).unwrap();
    }
    (writer, reader, authors, batch)
}

fn holds_secret(disk: &FakeDisk) -> bool {
    let names = disk.names().unwrap();
    names.iter().any(|name| disk.bytes(name).windows(SECRET.len()).any(|part| part == SECRET.as_bytes()))
}

#[test]
fn the_content_is_gone_and_the_chain_goes_on() {
    let (disk, dir) = (FakeDisk::default(), TempDir::new().unwrap());
    let (mut writer, reader, mut authors, all) = written(&disk, dir.path());
    assert!(holds_secret(&disk));
    let unknown = MessageId::from_bytes([9; 32]);
    assert_eq!(writer.erase(&[all[13].id(), unknown]).unwrap(), 1);
    assert!(!holds_secret(&disk));
    assert_eq!(writer.erase(&[all[13].id()]).unwrap(), 0, "it is gone already");

    let check = |reader: &Reader| {
        let left: Vec<_> = all.iter().filter(|message| message.id() != all[13].id()).cloned().collect();
        assert_eq!(messages(reader)[..29], left);
        assert_eq!(reader.get(&all[13].id()).unwrap(), None);
        // Messages 1, 4, 7, 10, 13, 16, … are feed 1's.
        assert_eq!(reader.at(&author(1), 5).unwrap(), None);
        let sequences =
            |messages: Messages| messages.map(|m| m.unwrap().message.sequence()).collect::<Vec<_>>();
        let in_feed = sequences(reader.feed_range(&author(1), 3..=7, Order::Descending));
        assert_eq!(in_feed, [7, 6, 4, 3]);
        assert_eq!(sequences(reader.feed(&author(1), 2)), [2, 3, 4], "peers get no gap");
        assert_eq!(sequences(reader.feed(&author(1), 6)), [6, 7, 8, 9, 10]);
        assert_eq!(reader.tip(&author(1)).unwrap().sequence, 10);
        assert_eq!(reader.by_type("post", .., Order::Ascending).count(), reader.len() as usize - 1);
    };
    check(&reader);
    let again = writer.commit(vec![all[13].clone()], 3000.0).unwrap();
    assert_eq!(again.refused[0].why, Refusal::Known, "its place stays taken");
    let next = authors.write(1, 50.0, r#"{"type":"post","text":"more"}"#);
    assert_eq!(writer.commit(vec![next], 3000.0).unwrap().stored.len(), 1);
    drop((writer, reader));

    for keeps_index in [true, false] {
        if !keeps_index {
            std::fs::remove_dir_all(dir.path().join("index")).unwrap();
        }
        let (writer, reader) = open_fake(&disk, dir.path()).unwrap();
        assert_eq!(reader.tip(&author(1)).unwrap().sequence, 11);
        assert_eq!((reader.len(), writer.opened().cut.clone()), (31, None));
        drop(writer);
    }
}

#[test]
fn a_power_cut_leaves_the_message_whole_or_without_content() {
    let mut outcomes = [0, 0];
    for seed in 0..120 {
        let mut dice = Dice::new(seed);
        let (disk, dir) = (FakeDisk::default(), TempDir::new().unwrap());
        let (mut writer, reader, _, all) = written(&disk, dir.path());
        // Whichever of its syncs fails, the power goes right there.
        disk.fail_syncs_after(seed % 5);
        let erased = writer.erase(&[all[13].id(), all[14].id()]);
        let after = disk.after_power_cut(&mut dice);
        drop((writer, reader));
        let (mut writer, reader) = open_fake(&after, dir.path()).unwrap();
        assert_eq!(writer.opened().cut, None, "seed {seed}");
        let left = [13, 14].map(|n: usize| reader.get(&all[n].id()).unwrap());
        for (n, left) in [13, 14].into_iter().zip(&left) {
            assert!(left.as_ref().is_none_or(|stored| stored.message == all[n]), "seed {seed}");
        }
        assert_eq!(left[0].is_some(), left[1].is_some(), "seed {seed}: both or none");
        assert!(erased.is_err() || left[0].is_none(), "seed {seed}: what was acknowledged holds");
        assert_eq!(holds_secret(&after), left[0].is_some(), "seed {seed}");
        outcomes[usize::from(left[0].is_some())] += 1;
        // And whatever came of it, erasing goes on.
        writer.erase(&[all[13].id(), all[20].id()]).unwrap();
        assert_eq!(messages(&reader).len(), if left[0].is_some() { 28 } else { 27 }, "seed {seed}");
    }
    assert!(outcomes.iter().all(|n| *n > 0), "{outcomes:?}");
}

#[test]
fn readers_see_it_whole_or_not_at_all_while_it_goes() {
    let dir = TempDir::new().unwrap();
    let (mut writer, reader) = Store::open(dir.path(), &small(), &mut no_progress()).unwrap();
    let mut authors = Authors::default();
    let text = "x".repeat(6000);
    let all: Vec<_> = (0..200)
        .map(|n| authors.write(n % 3, 1.0, &format!(r#"{{"type":"post","text":"{text}"}}"#)))
        .collect();
    writer.commit(all.clone(), 2000.0).unwrap();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            loop {
                let seen = messages(&reader);
                assert!(seen.iter().all(|message| message.value_bytes().len() > 6000));
                if seen.is_empty() {
                    return;
                }
            }
        });
        for message in &all {
            writer.erase(&[message.id()]).unwrap();
        }
        reading.join().unwrap();
    });
}
