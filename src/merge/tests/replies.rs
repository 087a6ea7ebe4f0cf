//! What else is in the legs' replies: descriptions, tags, notices, COPY.

use super::*;
use crate::protocol::copy::written::{Layout, Quoted};
use crate::protocol::copy::CopyFormat;

#[test]
fn one_reply_to_the_extended_protocol() {
    let leg = |rows: &[&str], end: &str| {
        let mut leg = vec![
            PARSE_COMPLETE.to_vec(),
            BIND_COMPLETE.to_vec(),
            described(&[("a", oid::INT4)]),
        ];
        leg.extend(rows.iter().map(|values| row(values)));
        leg.push(done(end));
        leg
    };
    let legs = [leg(&["1"], "SELECT 1"), leg(&["2", "3"], "SELECT 2")];
    assert_eq!(
        run(merge(MergePlan::concatenate(), Slice::default(), 2), &legs),
        "1 2 T:a 1 2 3 C:SELECT_3"
    );

    // A leg that is far ahead waits for the other's description.
    let mut ahead = merge(MergePlan::concatenate(), Slice::default(), 2);
    let mut out = Vec::new();
    for message in &legs[1] {
        ahead.feed(1, message, &mut out);
    }
    assert_eq!(words(&out), "");
    for message in &legs[0] {
        ahead.feed(0, message, &mut out);
    }
    assert_eq!(ahead.pump(usize::MAX, &mut out), Progress::Done);
    assert_eq!(words(&out), "1 2 T:a 2 3 1 C:SELECT_3");
}

/// What the first leg says is passed on before the others are asked, and they must say the same.
#[test]
fn legs_may_be_asked_in_turn() {
    let leg = |type_oid, rows: &[&str], end: &str| {
        let mut leg = vec![PARSE_COMPLETE.to_vec(), described(&[("a", type_oid)])];
        leg.extend(rows.iter().map(|values| row(values)));
        leg.push(done(end));
        leg
    };
    let start = |plan| merge(plan, Slice::default(), 3).in_turn(1);
    let feed = |merge: &mut Merge, at: usize, leg: &[Vec<u8>]| {
        let mut out = Vec::new();
        for message in leg {
            assert!(merge.may_read(at));
            merge.feed(at, message, &mut out);
        }
        let progress = merge.pump(usize::MAX, &mut out);
        (words(&out), progress)
    };
    let reading = |words: &str| (words.to_owned(), Progress::Reading);
    let done = |words: &str| (words.to_owned(), Progress::Done);

    let mut in_turn = start(MergePlan::sharded_write());
    let first = leg(oid::INT4, &["1", "2"], "UPDATE 2");
    assert_eq!(feed(&mut in_turn, 0, &first), reading("1 T:a 1 2"));
    in_turn.asked_up_to(2);
    let second = leg(oid::INT4, &["3"], "UPDATE 1");
    assert_eq!(feed(&mut in_turn, 1, &second), reading("3"));
    in_turn.asked_up_to(3);
    let third = leg(oid::INT4, &[], "UPDATE 0");
    assert_eq!(feed(&mut in_turn, 2, &third), done("C:UPDATE_3"));

    // Others after the first, in whatever order; their rows are the same.
    let mut everywhere = start(MergePlan::omnisharded_write());
    let same = leg(oid::INT4, &["1"], "UPDATE 1");
    assert_eq!(feed(&mut everywhere, 0, &same), reading("1 T:a 1"));
    everywhere.asked_up_to(3);
    assert_eq!(feed(&mut everywhere, 2, &same), reading(""));
    assert_eq!(feed(&mut everywhere, 1, &same), done("C:UPDATE_1"));

    let mut differs = start(MergePlan::sharded_write());
    feed(&mut differs, 0, &first);
    differs.asked_up_to(2);
    let other = leg(oid::INT8, &["3"], "UPDATE 1");
    assert_eq!(feed(&mut differs, 1, &other), reading("E:42804"));
    assert!(differs.has_failed());
    differs.lose(2);
    assert_eq!(feed(&mut differs, 1, &[]), done(""));

    // The first says no: the others are not asked.
    let mut fails = start(MergePlan::sharded_write());
    let no = [
        PARSE_COMPLETE.to_vec(),
        failed(SqlState::NOT_NULL_VIOLATION),
    ];
    assert_eq!(feed(&mut fails, 0, &no), reading("E:23502"));
    fails.lose(1);
    fails.lose(2);
    assert_eq!(feed(&mut fails, 0, &[]), done(""));
}

#[test]
fn a_description_for_the_merge_alone_is_kept_from_the_client() {
    let plan = MergePlan {
        order: vec![ascending(0)],
        ..MergePlan::concatenate()
    };
    let merge = Merge::new(
        Arc::new(plan),
        Slice::default(),
        2,
        BYTES,
        Description::Kept,
        LIMITS,
    );
    assert_eq!(
        run(merge, &selected(&[("a", oid::INT4)], &[&["2"], &["1"]])),
        "1 2 C:SELECT_2"
    );
}

#[test]
fn writes_are_added_or_the_same_everywhere() {
    let check = |plan: MergePlan, legs: &[Vec<Vec<u8>>], expected: &str| {
        assert_eq!(
            run(merge(plan, Slice::default(), legs.len()), legs),
            expected
        );
    };
    let returning = |rows: &[&str], end: &str| {
        let mut leg = vec![described(&[("a", oid::INT4)])];
        leg.extend(rows.iter().map(|values| row(values)));
        leg.push(done(end));
        leg
    };
    let insert = [
        returning(&["1"], "INSERT 0 1"),
        returning(&["2", "3"], "INSERT 0 2"),
    ];
    check(
        MergePlan::sharded_write(),
        &insert,
        "T:a 1 2 3 C:INSERT_0_3",
    );
    let same = [returning(&["1"], "UPDATE 1"), returning(&["1"], "UPDATE 1")];
    check(MergePlan::omnisharded_write(), &same, "T:a 1 C:UPDATE_1");
    let differing = [vec![done("UPDATE 1")], vec![done("UPDATE 2")]];
    check(MergePlan::omnisharded_write(), &differing, "E:XX001");
    let utility = [
        vec![NO_DATA.to_vec(), done("CREATE TABLE")],
        vec![NO_DATA.to_vec(), done("CREATE TABLE")],
    ];
    check(MergePlan::utility(), &utility, "n C:CREATE_TABLE");
    let empty = [
        vec![EMPTY_QUERY_RESPONSE.to_vec()],
        vec![EMPTY_QUERY_RESPONSE.to_vec()],
    ];
    check(MergePlan::utility(), &empty, "I");
}

#[test]
fn notices_of_all_legs_come_once() {
    let mut notice = Vec::new();
    let severity = crate::protocol::error_fields::Severity::Notice;
    crate::protocol::error_fields::put_notice(
        &mut notice,
        severity,
        SqlState::WARNING,
        "exists",
        None,
        None,
    );
    let leg = vec![notice, done("CREATE TABLE")];
    assert_eq!(
        run(
            merge(MergePlan::utility(), Slice::default(), 2),
            &[leg.clone(), leg]
        ),
        "N C:CREATE_TABLE"
    );
}

#[test]
fn copies_have_one_header_and_one_end() {
    let message = |tag: u8, body: &[u8]| {
        let mut out = Vec::new();
        put_message(&mut out, tag, |out| out.extend_from_slice(body));
        out
    };
    let copy = |format: u8, data: &[&[u8]], end: &str| {
        let mut leg = vec![message(b'H', &[format, 0, 0])];
        leg.extend(data.iter().map(|data| message(b'd', data)));
        leg.push(COPY_DONE.to_vec());
        leg.push(done(end));
        leg
    };
    let plan = || merge(MergePlan::sharded_write(), Slice::default(), 2);
    let text = [
        copy(0, &[b"a\n", b"1\n"], "COPY 1"),
        copy(0, &[b"a\n", b"2\n"], "COPY 1"),
    ];
    assert_eq!(
        run(plan().copy_names(), &text),
        "H d:a\\n d:1\\n d:2\\n c C:COPY_2"
    );
    let header = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
    let with = |row: &[u8]| [&header[..], row].concat();
    let binary = [
        copy(1, &[&with(b"row1"), b"row2", b"\xff\xff"], "COPY 2"),
        copy(1, &[&with(b"row3"), b"\xff\xff"], "COPY 1"),
    ];
    let found = run(plan(), &binary);
    let first = with(b"row1").escape_ascii().to_string();
    assert_eq!(
        found,
        format!("H d:{first} d:row3 d:row2 d:\\xff\\xff c C:COPY_3")
    );
    let empty = [
        copy(1, &[&with(b"\xff\xff")], "COPY 0"),
        copy(1, &[&with(b"\xff\xff")], "COPY 0"),
    ];
    let first = header.escape_ascii();
    assert_eq!(
        run(plan(), &empty),
        format!("H d:{first} d:\\xff\\xff c C:COPY_0")
    );
}

/// Legs merged by their first column, and written as data of this format. Their second column is to be quoted.
fn exported(format: CopyFormat, quoted: &str, legs: &[Vec<Vec<u8>>]) -> String {
    let plan = MergePlan {
        order: vec![OrderKey {
            column: Column::FromStart(0),
            descending: false,
            nulls_first: false,
            by_bytes: false,
        }],
        ..MergePlan::concatenate()
    };
    let layout = Layout {
        format,
        quoted: Quoted::Columns(vec![quoted.into()]),
    };
    let merge = merge(plan, Slice::default(), legs.len());
    let mut merge = merge.exported(Box::new(Export::new(layout, 6)));
    let mut out = Vec::new();
    for (at, leg) in legs.iter().enumerate() {
        for message in leg {
            merge.feed(at, message, &mut out);
        }
    }
    merge.pump(usize::MAX, &mut out);
    let exported = merge.export(out);
    assert!(merge.all_ended());
    words(&exported)
}

#[test]
fn rows_become_data_of_copy() {
    let columns = [("id", oid::INT4), ("name, or", oid::TEXT)];
    let leg = |rows: &[&str], end: &str| {
        let mut leg = vec![described(&columns)];
        leg.extend(rows.iter().map(|values| row(values)));
        leg.push(done(end));
        leg
    };
    let legs = [
        leg(&["1|a", "4|-"], "SELECT 2"),
        leg(&["2|b\tc", "3|\"\\"], "SELECT 2"),
    ];
    let text = CopyFormat::Text {
        delimiter: b'\t',
        null: b"\\N".to_vec(),
        header: false,
    };
    assert_eq!(
        exported(text.clone(), "id", &legs),
        r#"H d:1\ta\n d:2\tb\\tc\n d:3\t\"\\\\\n d:4\t\\N\n c C:COPY_4"#
    );
    let csv = CopyFormat::Csv {
        delimiter: b',',
        null: Vec::new(),
        header: true,
        quote: b'"',
        escape: b'"',
        end_marker: true,
    };
    assert_eq!(
        exported(csv.clone(), "name, or", &legs),
        r#"H d:id,\"name, or\"\n d:1,\"a\"\n d:2,\"b\tc\"\n d:3,\"\"\"\\\"\n d:4,\n c C:COPY_4"#
    );
    // A column that is to be quoted and is not there: the client hears it before anything else.
    assert_eq!(exported(csv, "other", &legs), "E:42703");
    // An error instead of rows.
    let fails = [
        legs[0].clone(),
        vec![described(&columns), failed(SqlState::DIVISION_BY_ZERO)],
    ];
    assert_eq!(exported(text, "id", &fails), "H E:22012");
    // Rows of another format than was asked for.
    assert_eq!(exported(CopyFormat::Binary, "id", &legs), "E:XX000");
}

#[test]
fn binary_rows_become_data_of_copy() {
    let leg = |rows: &[i32]| {
        let field = |name| Field {
            type_oid: oid::INT4,
            format: 1,
            ..Field::text(name)
        };
        let mut leg = vec![Vec::new()];
        RowDescription::encode(&mut leg[0], [field(b"a"), field(b"b")]);
        for value in rows {
            let mut row = Vec::new();
            DataRow::encode(&mut row, [Some(&value.to_be_bytes()[..]), None]);
            leg.push(row);
        }
        leg.push(done(&format!("SELECT {}", rows.len())));
        leg
    };
    let header = r"PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let row =
        |value: i32| format!(r"\x00\x02\x00\x00\x00\x04\x00\x00\x00\x0{value}\xff\xff\xff\xff");
    assert_eq!(
        exported(CopyFormat::Binary, "a", &[leg(&[1, 3]), leg(&[2])]),
        format!(
            r"H d:{header}{} d:{} d:{} d:\xff\xff c C:COPY_3",
            row(1),
            row(2),
            row(3)
        )
    );
    assert_eq!(
        exported(CopyFormat::Binary, "a", &[leg(&[]), leg(&[])]),
        format!(r"H d:{header}\xff\xff c C:COPY_0")
    );
}
