use super::*;

/// Commits until some point, cuts the power in the middle of anything, starts again; many times over.
#[test]
fn whatever_was_acknowledged_survives_power_cuts_and_nothing_else_appears() {
    for seed in 1..=60 {
        let mut dice = Dice::new(seed);
        let mut disk = FakeDisk::default();
        let mut authors = Authors::default();
        let mut acknowledged: Vec<Message> = Vec::new();
        let mut index = TempDir::new().unwrap();
        for _ in 0..6 {
            let (mut writer, reader) = open_fake(&disk, index.path()).unwrap();
            let kept = messages(&reader);
            assert_eq!(kept[..acknowledged.len()], acknowledged, "seed {seed}");
            assert!(!writer.opened().lost_acknowledged());
            // A message that was written but not acknowledged may survive: then it is there for good.
            authors.tips = kept.iter().map(|message| (message.author(), message.tip())).collect();
            acknowledged = kept;

            for _ in 0..dice.below(8) {
                let batch: Vec<Message> =
                    (0..=dice.below(12)).map(|_| authors.write_any(&mut dice)).collect();
                writer.commit(batch.clone(), 2000.0).unwrap();
                acknowledged.extend(batch);
            }
            // The power goes while this is being written; perhaps the disk had failed before.
            disk.set_sync_fails(true);
            for _ in 0..dice.below(3) {
                let mut authors = authors.clone();
                let batch: Vec<Message> =
                    (0..=dice.below(30)).map(|_| authors.write_any(&mut dice)).collect();
                assert!(writer.commit(batch, 2000.0).is_err());
            }
            assert_eq!(messages(&reader), acknowledged);
            disk = disk.after_power_cut(&mut dice);
            let after = TempDir::new().unwrap();
            if dice.below(4) > 0 {
                copy_dir(&index.path().join("index"), &after.path().join("index"));
            }
            drop((writer, reader));
            index = after;
        }
    }
}
