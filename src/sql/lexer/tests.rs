use proptest::prelude::*;

use super::*;

const STANDARD: Dialect = Dialect {
    backslashes: false,
    overlapping: false,
};
const BACKSLASHES: Dialect = Dialect {
    backslashes: true,
    overlapping: false,
};
const OVERLAPPING: Dialect = Dialect {
    backslashes: false,
    overlapping: true,
};

/// The solid tokens of a text, each as `Kind:text`.
fn check(text: impl AsRef<[u8]>, dialect: Dialect, expected: &[&str]) {
    let text = text.as_ref();
    fuzz_lexer(text);
    let found: Vec<String> = Lexer::new(text, dialect)
        .filter(|token| !token.kind.is_blank())
        .map(|token| {
            format!(
                "{:?}:{}",
                token.kind,
                String::from_utf8_lossy(token.of(text))
            )
        })
        .collect();
    assert_eq!(found, expected, "{}", String::from_utf8_lossy(text));
}

#[test]
fn tokens_of_standard_text() {
    let cases: &[(&str, &[&str])] = &[
        ("", &[]),
        (" \t\r\n\x0b\x0c", &[]),
        ("a$1 _b é1", &["Word:a$1", "Word:_b", "Word:é1"]),
        ("a$$b$$", &["Word:a$$b$$"]),
        (
            r#""a""b" "c;--""#,
            &[r#"QuotedName:"a""b""#, r#"QuotedName:"c;--""#],
        ),
        (
            r#"U&"a" u&'b' u & b"#,
            &[
                r#"UnicodeName:U&"a""#,
                "UnicodeString:u&'b'",
                "Word:u",
                "Operator:&",
                "Word:b",
            ],
        ),
        ("'a''b' ''", &["String:'a''b'", "String:''"]),
        (r"'a\' b", &[r"String:'a\'", "Word:b"]),
        (
            r"E'a\'b' e'\\'",
            &[r"EscapeString:E'a\'b'", r"EscapeString:e'\\'"],
        ),
        (r"ee'\' x", &["Word:ee", r"String:'\'", "Word:x"]),
        (
            "N'a' B'01' x'ff'",
            &["String:N'a'", "BitString:B'01'", "BitString:x'ff'"],
        ),
        ("'a' 'b'", &["String:'a'", "String:'b'"]),
        ("'a'\n 'b' c", &["String:'a'\n 'b'", "Word:c"]),
        ("'a' -- x'\n 'b' c", &["String:'a' -- x'\n 'b'", "Word:c"]),
        ("'a' -- x 'b'", &["String:'a'"]),
        ("'a'\n/* */'b'", &["String:'a'", "String:'b'"]),
        ("E'a'\n'\\'b' c", &["EscapeString:E'a'\n'\\'b'", "Word:c"]),
        (
            "$$a'b$$ $a$ $$ $b$ $a$ c",
            &[
                "DollarString:$$a'b$$",
                "DollarString:$a$ $$ $b$ $a$",
                "Word:c",
            ],
        ),
        ("$a$ $$a$;", &["DollarString:$a$ $$a$", "Semicolon:;"]),
        ("$$ $a$$;", &["DollarString:$$ $a$$", "Semicolon:;"]),
        (
            "$1 $23+1 $é$x$é$",
            &[
                "Parameter:$1",
                "Parameter:$23",
                "Operator:+",
                "Number:1",
                "DollarString:$é$x$é$",
            ],
        ),
        ("$a b$", &["Other:$", "Word:a", "Word:b$"]),
        (
            "1 1.5 .5 1. 1e5 1e-5 1_000 0xFf 0b01 1e",
            &[
                "Number:1",
                "Number:1.5",
                "Number:.5",
                "Number:1.",
                "Number:1e5",
                "Number:1e-5",
                "Number:1_000",
                "Number:0xFf",
                "Number:0b01",
                "Number:1",
                "Word:e",
            ],
        ),
        (
            "1from a.b",
            &["Number:1", "Word:from", "Word:a", "Dot:.", "Word:b"],
        ),
        (
            "a<=b||c->>'d'",
            &[
                "Word:a",
                "Operator:<=",
                "Word:b",
                "Operator:||",
                "Word:c",
                "Operator:->>",
                "String:'d'",
            ],
        ),
        (
            "a=-1+-+2<=-b",
            &[
                "Word:a",
                "Operator:=",
                "Operator:-",
                "Number:1",
                "Operator:+",
                "Operator:-",
                "Operator:+",
                "Number:2",
                "Operator:<=",
                "Operator:-",
                "Word:b",
            ],
        ),
        (
            "@- 1<->-2 ~=+3 -",
            &[
                "Operator:@-",
                "Number:1",
                "Operator:<->",
                "Operator:-",
                "Number:2",
                "Operator:~=+",
                "Number:3",
                "Operator:-",
            ],
        ),
        (
            "1+--2\n3*/* x */4",
            &[
                "Number:1",
                "Operator:+",
                "Number:3",
                "Operator:*",
                "Number:4",
            ],
        ),
        ("/* a /* b */ ; */ c", &["Word:c"]),
        (
            "/**/a/***/b/*/ */c/*//**/*/d",
            &["Word:a", "Word:b", "Word:c", "Word:d"],
        ),
        ("-- a; b\rc", &["Word:c"]),
        (
            "a::int[1];b",
            &[
                "Word:a",
                "Other::",
                "Other::",
                "Word:int",
                "Other:[",
                "Number:1",
                "Other:]",
                "Semicolon:;",
                "Word:b",
            ],
        ),
        (
            "(a,b)",
            &["Open:(", "Word:a", "Comma:,", "Word:b", "Close:)"],
        ),
        ("'a", &["Unterminated:'a"]),
        ("a \"b;", &["Word:a", "Unterminated:\"b;"]),
        ("/* /* */", &["Unterminated:/* /* */"]),
        ("$a$ $b$", &["Unterminated:$a$ $b$"]),
        ("E'\\", &["Unterminated:E'\\"]),
        ("'a'\n'b", &["Unterminated:'a'\n'b"]),
        ("a\0b", &["Word:a", "Other:\0", "Word:b"]),
    ];
    for (text, expected) in cases {
        check(text, STANDARD, expected);
    }
}

#[test]
fn settings_change_where_strings_end() {
    check(r"'a\';c' c", BACKSLASHES, &[r"String:'a\';c'", "Word:c"]);
    check(
        r"'a\';c' c",
        STANDARD,
        &[r"String:'a\'", "Semicolon:;", "Word:c", "Unterminated:' c"],
    );
    // 0x95 0x5c is one character of Shift JIS.
    check(
        b"E'\x95\x5c'; SET a = 1",
        OVERLAPPING,
        &["Unterminated:E'\u{fffd}\\'; SET a = 1"],
    );
    check(
        b"'\x95\x5c';a",
        OVERLAPPING,
        &["String:'\u{fffd}\\'", "Semicolon:;", "Word:a"],
    );
    assert_eq!(Dialect::of(b"on", b"UTF8"), STANDARD);
    assert_eq!(Dialect::of(b"on", b"sjis"), OVERLAPPING);
    assert_eq!(Dialect::of(b"1", b"'Shift JIS'"), OVERLAPPING);
    for off in ["off", "OF", "0", "false", "f", "n", "no"] {
        assert_eq!(Dialect::of(off.as_bytes(), b"LATIN1"), BACKSLASHES, "{off}");
    }
}

#[test]
fn nesting_and_length_are_not_limits() {
    let deep = [
        vec![b"/*".as_slice(); 50_000].concat(),
        vec![b"*/".as_slice(); 50_000].concat(),
    ]
    .concat();
    let tokens: Vec<Token> = Lexer::new(&deep, STANDARD).collect();
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens.first().unwrap().kind, Kind::Comment);
}

proptest! {
    #[test]
    fn any_bytes_are_covered_by_tokens(data: Vec<u8>) {
        fuzz_lexer(&data);
    }

    #[test]
    fn any_text_of_special_characters_is_covered(
        text in r"([a-cEeUuNnBbXx&'\\$;()./*\-\n 1é]|\$a\$|--|/\*|\*/){0,60}"
    ) {
        fuzz_lexer(text.as_bytes());
    }

    /// Whatever a string holds, quoting it gives one token.
    #[test]
    fn a_quoted_string_is_one_token(content in "[^\0]{0,40}") {
        let plain = format!("'{}'", content.replace('\'', "''"));
        prop_assert_eq!(kinds(&plain), vec![Kind::String]);
        let escape = format!("E'{}'", content.replace('\\', "\\\\").replace('\'', "\\'"));
        prop_assert_eq!(kinds(&escape), vec![Kind::EscapeString]);
        let name = format!("\"{}\"", content.replace('"', "\"\""));
        prop_assert_eq!(kinds(&name), vec![Kind::QuotedName]);
        if !content.contains('$') {
            let dollar = format!("$q${content}$q$");
            prop_assert_eq!(kinds(&dollar), vec![Kind::DollarString]);
        }
    }
}

fn kinds(text: &str) -> Vec<Kind> {
    Lexer::new(text.as_bytes(), STANDARD)
        .map(|token| token.kind)
        .collect()
}
