use super::*;

fn id(number: u64) -> TransactionId {
    TransactionId {
        process: 9,
        core: 1,
        number,
    }
}

fn participant(shard: u32) -> Participant {
    let server = |host: &str, port| ServerAddress {
        host: Host::from(host),
        port,
        database_name: format!("shop_{shard}"),
    };
    Participant {
        shard,
        servers: vec![server("10.0.0.1", 5432), server("/run/postgresql", 5433)],
    }
}

fn pending(committed: bool) -> Pending {
    Pending {
        owner: Owner::new(Some("prod"), "a-0"),
        database: "shop".to_owned(),
        user: "ann".to_owned(),
        participants: [0, 2, 127].into_iter().map(participant).collect(),
        committed,
    }
}

fn records() -> Vec<Record> {
    vec![
        Record::Begin(id(1), pending(false)),
        Record::Begin(id(2), pending(false)),
        Record::Commit(id(1)),
        Record::Begin(id(3), pending(false)),
        Record::Done(id(1)),
        Record::Commit(id(3)),
    ]
}

/// A segment with these records, and what the log comes to after each of them, by length.
fn segment(number: u64, start: &Ledger, records: &[Record]) -> (Vec<u8>, Vec<(usize, Ledger)>) {
    let mut bytes = Vec::new();
    let mut writer = SegmentWriter::begin(number, start, &mut bytes);
    let mut ledger = start.clone();
    let mut states = vec![(bytes.len(), ledger.clone())];
    for record in records {
        writer.write(record, &mut bytes);
        ledger.apply(record.clone());
        states.push((bytes.len(), ledger.clone()));
    }
    (bytes, states)
}

fn recovered(segments: &[(u64, &[u8])]) -> Result<Recovered, Damaged> {
    let segments = segments
        .iter()
        .map(|(number, bytes)| (*number, bytes.to_vec()));
    recover(&segments.collect())
}

#[test]
fn a_log_that_was_cut_anywhere_is_what_its_whole_records_say() {
    let (bytes, states) = segment(4, &Ledger::default(), &records());
    for length in 0..=bytes.len() {
        let found = recovered(&[(4, &bytes[..length])]).unwrap();
        let whole = states.iter().rev().find(|(end, _)| *end <= length);
        let (end, ledger) = whole
            .cloned()
            .unwrap_or_else(|| (length, Ledger::default()));
        assert_eq!(found.ledger, ledger, "{length}");
        assert_eq!(found.torn_bytes, length - end);
        assert_eq!(found.next_segment, 5);
    }
    let last = &states.last().unwrap().1;
    let decisions: Vec<_> = last
        .iter()
        .map(|(id, pending)| (id.number, pending.resolution()))
        .collect();
    assert_eq!(
        decisions,
        [(2, Resolution::Rollback), (3, Resolution::Commit)]
    );
}

/// Pages that were never written are zero; a tail can be anything.
#[test]
fn a_torn_tail_is_not_read() {
    let (bytes, states) = segment(0, &Ledger::default(), &records());
    for tail in [&[0; 4096][..], &[0xFF; 50], &bytes[..60]] {
        let found = recovered(&[(0, &[&bytes[..], tail].concat())]).unwrap();
        assert_eq!(found.ledger, states.last().unwrap().1);
        assert_eq!(found.torn_bytes, tail.len());
    }
}

#[test]
fn damage_in_the_middle_is_no_torn_tail() {
    let (bytes, states) = segment(7, &Ledger::default(), &records());
    for at in HEADER_BYTES..states[states.len() - 2].0 {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        let found = recovered(&[(7, &damaged)]);
        assert!(
            matches!(found, Err(Damaged::Hole { segment: 7, .. })),
            "{at}: {found:?}"
        );
    }
}

#[test]
fn the_newest_segment_with_a_checkpoint_counts() {
    let (first, states) = segment(0, &Ledger::default(), &records());
    let ledger = &states.last().unwrap().1;
    let (second, second_states) = segment(1, ledger, &[Record::Done(id(2))]);
    let begun = second_states[0].0;
    for length in 0..second.len() {
        let found = recovered(&[(0, &first), (1, &second[..length])]).unwrap();
        assert_eq!(found.ledger, *ledger, "cut at {length} of {begun}");
        assert_eq!(found.next_segment, 2);
    }
    let found = recovered(&[(1, &second)]).unwrap();
    assert_eq!(found.ledger, second_states[1].1);
    // A copy under another number is no segment.
    assert_eq!(
        recovered(&[(2, &second), (3, &first)]),
        Err(Damaged::NoCheckpoint)
    );
    assert_eq!(recovered(&[]).unwrap(), Recovered::default());
    // A disk that was full at several starts.
    let empty = recovered(&[(0, &[]), (1, &[]), (2, &[])]).unwrap();
    assert_eq!((empty.ledger, empty.next_segment), (Ledger::default(), 3));
}

#[test]
fn other_versions_are_not_guessed_at() {
    let (mut bytes, _) = segment(0, &Ledger::default(), &[]);
    bytes[8] = 3;
    let error = recovered(&[(0, &bytes)]).unwrap_err();
    assert_eq!(error.to_string(), "segment 0 has version 3, 2 is known");
}

/// Its shards are named by their numbers alone.
#[test]
fn a_log_of_version_1_is_read() {
    let mut payload = vec![BEGIN];
    put_id(id(1), &mut payload);
    payload.push(0);
    for name in ["pgdog.prod.a-0", "shop", "ann"] {
        put_name(name, &mut payload);
    }
    put_count(2, &mut payload);
    payload.extend_from_slice(&0_u32.to_le_bytes());
    payload.extend_from_slice(&127_u32.to_le_bytes());
    let mut bytes = [&MAGIC[..], &1_u32.to_le_bytes(), &7_u64.to_le_bytes()].concat();
    for (sequence, payload) in [(0, &[CHECKPOINT][..]), (1, &payload)] {
        bytes.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        bytes.extend_from_slice(&u64::to_le_bytes(sequence));
        bytes.extend_from_slice(&digest(7, sequence, payload));
        bytes.extend_from_slice(payload);
    }
    let found = recovered(&[(7, &bytes)]).unwrap();
    assert_eq!(found.torn_bytes, 0);
    let numbered = |shard| Participant {
        shard,
        servers: Vec::new(),
    };
    let expected = Pending {
        participants: vec![numbered(0), numbered(127)],
        ..pending(false)
    };
    assert_eq!(found.ledger.iter().next(), Some((id(1), &expected)));
    // It goes on in one of this version.
    let (next, _) = segment(8, &found.ledger, &[]);
    let again = recovered(&[(7, &bytes), (8, &next)]).unwrap();
    assert_eq!(again.ledger, found.ledger);
}

#[test]
fn what_servers_have_prepared_is_judged() {
    let (_, states) = segment(0, &Ledger::default(), &records());
    let ledger = &states.last().unwrap().1;
    // The instance has another id since.
    let (before, now) = (
        Owner::new(Some("prod"), "a-0"),
        Owner::new(Some("prod"), "b-0"),
    );
    let judge = |gid: &str| ledger.resolution(gid, &now, |id| id == self::id(50));
    assert_eq!(judge(&before.gid(id(2), 0)), Some(Resolution::Rollback));
    assert_eq!(judge(&before.gid(id(3), 2)), Some(Resolution::Commit));
    assert_eq!(
        judge(&before.gid(id(9), 0)),
        None,
        "another instance may know it"
    );
    assert_eq!(judge(&now.gid(id(9), 0)), Some(Resolution::Rollback));
    assert_eq!(judge(&now.gid(id(50), 0)), None, "it is under way");
    assert_eq!(judge("manual"), None);
}
