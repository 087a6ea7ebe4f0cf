use proptest::prelude::*;

use super::*;

fn definition(text: &str, types: &[u32]) -> Vec<u8> {
    let mut definition = [text.as_bytes(), b"\0"].concat();
    definition.extend(u16::try_from(types.len()).unwrap().to_be_bytes());
    types
        .iter()
        .for_each(|oid| definition.extend(oid.to_be_bytes()));
    definition
}

fn statement(store: &mut Statements, text: &str) -> Rc<Statement> {
    store.intern(&definition(text, &[]), b"").unwrap()
}

#[test]
fn a_statement_is_its_text_its_types_and_what_the_parser_reads() {
    let mut store = Statements::new(usize::MAX);
    let one = statement(&mut store, "SELECT $1");
    assert!(Rc::ptr_eq(&one, &statement(&mut store, "SELECT $1")));
    let others = [
        store.intern(&definition("SELECT $1", &[23]), b"").unwrap(),
        store.intern(&definition("SELECT $2", &[]), b"").unwrap(),
        store
            .intern(&definition("SELECT $1", &[]), b"timezone='UTC'\0")
            .unwrap(),
        store.intern_sql(b"SELECT $1", b"").unwrap(),
    ];
    for other in &others {
        assert_ne!(one.server_name(), other.server_name());
    }
    let [_, _, utc, sql] = &others;
    assert!(Rc::ptr_eq(
        utc,
        &store
            .intern(&definition("SELECT $1", &[]), b"timezone='UTC'\0")
            .unwrap()
    ));
    assert_eq!(utc.definition(), definition("SELECT $1", &[]));
    assert_eq!(utc.text(), b"SELECT $1");
    assert!(sql.is_sql() && !one.is_sql());
    assert_eq!(sql.text(), b"SELECT $1");
    assert_eq!(store.len(), 5);
}

/// `sha256sum` of the definition, cut: a name must mean the same to all versions of this program.
#[test]
fn names_are_of_fixed_length_and_never_change() {
    let mut store = Statements::new(usize::MAX);
    let name = statement(&mut store, "SELECT 1").server_name();
    assert_eq!(
        String::from_utf8_lossy(&name),
        "__pgdog_b1042ee1ac35ef0dad64d6c4f86f40b3"
    );
    assert_eq!(Id(0).server_name().len(), SERVER_NAME_BYTES);
    assert_eq!(&Id(0xab).server_name()[SERVER_NAME_BYTES - 3..], b"0ab");
}

#[test]
fn malformed_definitions_are_refused() {
    let mut store = Statements::new(usize::MAX);
    for bytes in [
        &b""[..],
        b"SELECT 1",
        b"x\0",
        b"x\0\0",
        b"x\0\0\x01",
        b"x\0\0\0\0",
        b"x\0\xff\xff",
    ] {
        let error = store.intern(bytes, b"").unwrap_err();
        assert_eq!(error.code, SqlState::PROTOCOL_VIOLATION, "{bytes:?}");
    }
    assert_eq!(store.bytes(), 0);
}

#[test]
fn memory_is_bounded_by_what_clients_hold() {
    let mut store = Statements::new(2 * SWEEP_MIN_BYTES);
    let text = "x".repeat(10_000);
    for n in 0..1_000 {
        statement(&mut store, &format!("{n}{text}"));
        assert!(store.bytes() <= SWEEP_MIN_BYTES + 11_000);
    }
    let mut held = Vec::new();
    let refused = (0..1_000).find_map(|n| {
        let definition = definition(&format!("{n}{text}"), &[]);
        let found = store.intern(&definition, b"").map(|found| held.push(found));
        found.err()
    });
    assert_eq!(refused.unwrap().code, SqlState::OUT_OF_MEMORY);
    assert!(store.bytes() <= 2 * SWEEP_MIN_BYTES);
    assert!(held.len() > 150);
    held.clear();
    statement(&mut store, &text);
}

#[test]
fn names_of_clients_are_their_own() {
    let mut store = Statements::new(usize::MAX);
    let (one, two) = (statement(&mut store, "1"), statement(&mut store, "2"));
    let (mut a, mut b) = (ClientStatements::default(), ClientStatements::default());
    assert_eq!(a.prepare(b"s", Rc::clone(&one)), Ok(()));
    assert_eq!(b.prepare(b"s", Rc::clone(&two)), Ok(()));
    assert_eq!(a.get(b"s").unwrap().id(), one.id());
    assert_eq!(b.get(b"s").unwrap().id(), two.id());
    // PostgreSQL does not ask whether it is the same.
    for again in [&one, &two] {
        let error = a.prepare(b"s", Rc::clone(again)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "ERROR 42P05: prepared statement \"s\" already exists"
        );
    }
    let error = a.get(b"t").unwrap_err();
    assert_eq!(
        error.to_string(),
        "ERROR 26000: prepared statement \"t\" does not exist"
    );

    assert_eq!(a.prepare(b"", one), Ok(()));
    assert_eq!(a.prepare(b"", Rc::clone(&two)), Ok(()));
    assert_eq!(a.get(b"").unwrap().id(), two.id());
    assert_eq!(a.len(), 2);
}

#[test]
fn names_are_cut_as_postgresql_cuts_them_and_no_client_has_too_many() {
    let mut store = Statements::new(usize::MAX);
    let one = statement(&mut store, "1");
    let mut client = ClientStatements::default();
    let cut = "n".repeat(63);
    let long = format!("{cut}{}", "o".repeat(1000));
    assert_eq!(client.prepare(long.as_bytes(), Rc::clone(&one)), Ok(()));
    let twice = client.prepare(cut.as_bytes(), Rc::clone(&one)).unwrap_err();
    assert_eq!(twice.code, SqlState::DUPLICATE_PREPARED_STATEMENT);
    assert!(client.get(format!("{cut}x").as_bytes()).is_ok());
    assert!(client.get(b"n").is_err());
    assert!(client.remove(format!("{cut}y").as_bytes()));
    for n in 0..NAMES_MAX {
        let name = n.to_string();
        assert_eq!(client.prepare(name.as_bytes(), Rc::clone(&one)), Ok(()));
    }
    let refused = client.prepare(b"more", Rc::clone(&one)).unwrap_err();
    assert_eq!(refused.code, SqlState::OUT_OF_MEMORY);
    assert!(client.remove(b"0"));
    assert_eq!(client.prepare(b"more", one), Ok(()));
}

#[test]
fn a_client_without_statements_is_small() {
    assert_eq!(size_of::<ClientStatements>(), 16);
    let mut client = ClientStatements::default();
    let mut store = Statements::new(usize::MAX);
    client.prepare(b"s", statement(&mut store, "1")).unwrap();
    client.remove(b"s");
    client.sync();
    client.succeeded();
    client.succeeded();
    client.ready();
    client.sync();
    client.ready();
    assert!(client.names.is_none());
}

#[test]
fn an_earlier_ready_for_query_does_not_undo_a_later_batch() {
    let mut client = ClientStatements::default();
    let mut store = Statements::new(usize::MAX);
    client.sync(); // a Query, before there was any name
    client.prepare(b"s", statement(&mut store, "1")).unwrap();
    client.sync();
    client.ready();
    assert!(client.get(b"s").is_ok());
    client.succeeded();
    client.ready();
    assert!(client.get(b"s").is_ok());

    client.remove(b"s");
    client.clear();
    client.sync();
    client.ready(); // both were skipped
    assert!(client.get(b"s").is_ok());
}

#[test]
fn names_that_an_earlier_batch_may_change_are_not_known_yet() {
    let mut store = Statements::new(usize::MAX);
    let mut client = ClientStatements::default();
    client.prepare(b"s", statement(&mut store, "1")).unwrap();
    assert!(!client.awaits(Some(b"s")), "of the batch under way");
    client.sync();
    assert!(client.awaits(Some(b"s")) && client.awaits(None));
    assert!(!client.awaits(Some(b"t")));
    client.succeeded();
    assert!(!client.awaits(None), "answered");
    client.ready();
    client.clear();
    client.sync();
    client.sync();
    assert!(client.awaits(Some(b"t")));
    client.ready();
    client.ready();
    assert!(!client.awaits(None));
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Prepare(u8, u8),
    Remove(u8),
    Clear,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..3_u8, 0..3_u8).prop_map(|(name, text)| Op::Prepare(name, text)),
        2 => (0..3_u8).prop_map(Op::Remove),
        1 => Just(Op::Clear),
    ]
}

proptest! {
    /// Batches of changes, each failing at some point: only what succeeded before it remains.
    #[test]
    fn what_is_skipped_has_never_been(
        batches in prop::collection::vec((prop::collection::vec(op(), 0..8), 0..8_usize), 0..6)
    ) {
        let mut store = Statements::new(usize::MAX);
        let mut client = ClientStatements::default();
        let mut expected: HashMap<u8, Id> = HashMap::new();
        for (ops, succeed) in batches {
            let mut changes = 0;
            for op in ops {
                let mut change = |expected: &mut HashMap<u8, Id>, apply: &dyn Fn(&mut HashMap<u8, Id>)| {
                    if changes < succeed {
                        apply(expected);
                    }
                    changes += 1;
                };
                match op {
                    Op::Prepare(name, text) => {
                        let statement = statement(&mut store, &text.to_string());
                        let id = statement.id();
                        if client.prepare(&[name], statement) == Ok(()) {
                            change(&mut expected, &|expected| { expected.insert(name, id); });
                        }
                    }
                    Op::Remove(name) => {
                        client.remove(&[name]);
                        change(&mut expected, &|expected| { expected.remove(&name); });
                    }
                    Op::Clear => {
                        client.clear();
                        change(&mut expected, &HashMap::clear);
                    }
                }
            }
            client.sync();
            (0..changes.min(succeed)).for_each(|_| client.succeeded());
            client.ready();
            prop_assert_eq!(client.len(), expected.len());
            for (name, id) in &expected {
                prop_assert_eq!(client.get(&[*name]).unwrap().id(), *id);
            }
        }
    }
}
