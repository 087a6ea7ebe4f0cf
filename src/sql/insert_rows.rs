//! Rows of `INSERT … VALUES (…), (…)`, and statements with some of them, for the shards that they belong to.
//!
//! A part is the statement's own text with rows left out, so that comments, ON CONFLICT and RETURNING stay as they are.
//! Parameters that only other rows use would have no type, so those of a part are counted anew.

use std::ops::Range;

use super::lexer::{Dialect, Kind, Lexer, Token};

/// Where the rows are in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InsertRows {
    /// With their parentheses, in order; at least one.
    rows: Vec<Range<usize>>,
}

/// A statement with some of the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InsertPart {
    /// Its text.
    pub text: Vec<u8>,
    /// For each of its parameters, the number that it has in the whole statement, from 1.
    pub parameters: Vec<u16>,
}

/// Which parameters a text has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParameterUsage {
    /// The highest number, 0 if there is none.
    pub highest: u16,
    /// Those whose surroundings differ from row to row, or that are used in rows and outside of them.
    pub ambiguous: Vec<u16>,
}

/// A parameter within a value of a row: its number, the value's position and text.
type Site<'t> = (u16, usize, &'t [u8]);

impl InsertRows {
    /// Finds the rows of a text that is one INSERT with a list of rows. `None`: it begins with something else (WITH
    /// among that), has no such list, is more than one statement, or what follows the list makes it a query (ORDER BY,
    /// UNION).
    ///
    /// Whether the text is valid is for others: rows are to be compared with those that the parser found.
    pub fn find(text: &[u8], dialect: Dialect) -> Option<Self> {
        let mut tokens = Lexer::new(text, dialect).filter(|token| !token.kind.is_blank());
        let is = |token: &Token, word: &str| token.is_word(text, word);
        tokens.next().filter(|token| is(token, "insert"))?;
        let mut depth = 0_usize;
        let mut before: Option<Token> = None;
        loop {
            let token = tokens.next()?;
            depth = nested(depth, token.kind)?;
            if depth == 0 && is(&token, "values") {
                // It may also be the name of the table, and DEFAULT VALUES has no rows.
                let named = before.is_some_and(|before| {
                    before.kind == Kind::Dot || is(&before, "into") || is(&before, "as")
                });
                if !named {
                    break;
                }
            }
            before = Some(token);
        }
        if before.is_some_and(|before| is(&before, "default")) {
            return None;
        }
        let mut rows = Vec::new();
        let after = loop {
            let start = tokens
                .next()
                .filter(|token| token.kind == Kind::Open)?
                .start;
            let mut depth = 1_usize;
            let end = loop {
                let token = tokens.next()?;
                depth = nested(depth, token.kind)?;
                if depth == 0 {
                    break token.end;
                }
            };
            rows.push(start..end);
            match tokens.next() {
                Some(token) if token.kind == Kind::Comma => {}
                after => break after,
            }
        };
        let fits = match after {
            None => true,
            Some(token) if token.kind == Kind::Semicolon => tokens.next().is_none(),
            Some(token) if is(&token, "on") || is(&token, "returning") => {
                // To the end: one statement, nothing open.
                let mut rest = tokens.skip_while(|token| {
                    !matches!(token.kind, Kind::Semicolon | Kind::Unterminated)
                });
                match rest.next() {
                    None => true,
                    Some(token) => token.kind == Kind::Semicolon && rest.next().is_none(),
                }
            }
            Some(_) => false,
        };
        fits.then_some(Self { rows })
    }

    /// How many rows there are.
    pub fn count(&self) -> usize {
        self.rows.len()
    }

    /// Where they are in the text, with their parentheses.
    pub fn ranges(&self) -> &[Range<usize>] {
        &self.rows
    }

    /// Which parameters the text uses, and which of them cannot be told from a part of it. `text` and `dialect` are those
    /// of [`Self::find`].
    pub fn parameters(&self, text: &[u8], dialect: Dialect) -> ParameterUsage {
        let mut outside = Vec::new();
        let mut sites: Vec<Vec<Site<'_>>> = vec![Vec::new(); self.rows.len()];
        let mut lexer = Lexer::new(text, dialect)
            .filter(|token| !token.kind.is_blank())
            .peekable();
        for (row, sites) in self.rows.iter().zip(&mut sites) {
            while let Some(token) = lexer.next_if(|token| token.start < row.start) {
                outside.extend(number(token, text));
            }
            let (mut depth, mut column, mut begin) = (0_usize, 0, row.start);
            let mut found = Vec::new();
            while let Some(token) = lexer.next_if(|token| token.end <= row.end) {
                let last = token.end == row.end;
                if last || depth == 1 && token.kind == Kind::Comma {
                    let value = text.get(begin..token.start).unwrap_or_default();
                    sites.extend(
                        found
                            .drain(..)
                            .map(|number| (number, column, value.trim_ascii())),
                    );
                    column += 1;
                    begin = token.end;
                    continue;
                }
                if depth == 0 {
                    begin = token.end;
                }
                depth = nested(depth, token.kind).unwrap_or_default();
                found.extend(number(token, text));
            }
        }
        outside.extend(lexer.filter_map(|token| number(token, text)));
        let all = sites.iter().flatten().map(|(number, ..)| *number);
        let highest = all.clone().chain(outside.iter().copied()).max();
        let mut numbers: Vec<u16> = all.collect();
        numbers.sort_unstable();
        numbers.dedup();
        let of = |sites: &[Site<'_>], number: u16| {
            sites
                .iter()
                .filter(|site| site.0 == number)
                .map(|(_, column, value)| (*column, value.to_vec()))
                .collect::<Vec<_>>()
        };
        // Each row names few of them: those that it names are compared with what the first row that names them has.
        let mut first: std::collections::HashMap<u16, Vec<(usize, Vec<u8>)>> =
            std::collections::HashMap::new();
        let mut ambiguous: Vec<u16> = Vec::new();
        for sites in &sites {
            let mut here: Vec<u16> = sites.iter().map(|site| site.0).collect();
            here.sort_unstable();
            here.dedup();
            for number in here {
                let own = of(sites, number);
                if *first.entry(number).or_insert_with(|| own.clone()) != own {
                    ambiguous.push(number);
                }
            }
        }
        ambiguous.extend(
            outside
                .iter()
                .filter(|number| numbers.binary_search(number).is_ok()),
        );
        ambiguous.sort_unstable();
        ambiguous.dedup();
        ParameterUsage {
            highest: highest.unwrap_or_default(),
            ambiguous,
        }
    }

    /// The statement with those rows that `keep` says, by their position from 0. `None`: none is kept.
    ///
    /// `text` and `dialect` are those of [`Self::find`].
    pub fn part(
        &self,
        text: &[u8],
        dialect: Dialect,
        keep: impl Fn(usize) -> bool,
    ) -> Option<InsertPart> {
        let (first, last) = (self.rows.first()?, self.rows.last()?);
        let mut kept = Vec::with_capacity(text.len());
        kept.extend_from_slice(text.get(..first.start)?);
        let mut any = false;
        for (at, row) in self.rows.iter().enumerate() {
            if keep(at) {
                if any {
                    kept.extend_from_slice(b", ");
                }
                kept.extend_from_slice(text.get(row.clone())?);
                any = true;
            }
        }
        kept.extend_from_slice(text.get(last.end..)?);
        any.then(|| renumber(&kept, dialect))
    }
}

/// `None`: more is closed than was opened.
fn nested(depth: usize, kind: Kind) -> Option<usize> {
    match kind {
        Kind::Open => Some(depth + 1),
        Kind::Close => depth.checked_sub(1),
        _ => Some(depth),
    }
}

/// The number of a parameter.
fn number(token: Token, text: &[u8]) -> Option<u16> {
    let digits = token.of(text).strip_prefix(b"$")?;
    let digits = (token.kind == Kind::Parameter).then_some(digits)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Counts parameters anew, in the order of their numbers.
pub fn renumber(text: &[u8], dialect: Dialect) -> InsertPart {
    let tokens = || Lexer::new(text, dialect).filter(|token| token.kind == Kind::Parameter);
    let mut parameters: Vec<u16> = tokens().filter_map(|token| number(token, text)).collect();
    parameters.sort_unstable();
    parameters.dedup();
    let mut out = Vec::with_capacity(text.len());
    let mut copied = 0;
    for token in tokens() {
        // A number beyond those that the protocol has stays, for the server to refuse.
        let place = number(token, text).and_then(|number| parameters.binary_search(&number).ok());
        if let Some(place) = place {
            out.extend_from_slice(text.get(copied..token.start).unwrap_or_default());
            out.extend_from_slice(format!("${}", place + 1).as_bytes());
            copied = token.end;
        }
    }
    out.extend_from_slice(text.get(copied..).unwrap_or_default());
    InsertPart {
        text: out,
        parameters,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str) -> Option<Vec<&str>> {
        let rows = InsertRows::find(text.as_bytes(), Dialect::default())?;
        Some(rows.rows.iter().map(|row| &text[row.clone()]).collect())
    }

    #[test]
    fn rows_are_found() {
        for (text, expected) in [
            ("INSERT INTO t VALUES (1)", &["(1)"][..]),
            ("insert into t (a, b) values (1, 'x)'), (f(2, (3)), $1) ;", &["(1, 'x)')", "(f(2, (3)), $1)"]),
            ("INSERT INTO values (a) VALUES (1)", &["(1)"]),
            ("INSERT INTO s.values AS values VALUES (1), /* ( */ (2) -- ,\n", &["(1)", "(2)"]),
            ("INSERT INTO t OVERRIDING SYSTEM VALUE VALUES (1),(2) ON CONFLICT (a) DO UPDATE SET b = 1 RETURNING (a), 2", &["(1)", "(2)"]),
            ("INSERT INTO t VALUES ($$ ( $$, ARRAY[1,2]), ((SELECT 1, 2))", &["($$ ( $$, ARRAY[1,2])", "((SELECT 1, 2))"]),
            ("/* c */ INSERT INTO t VALUES (DEFAULT) RETURNING a;", &["(DEFAULT)"]),
        ] {
            assert_eq!(find(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_list_of_rows() {
        for text in [
            "",
            "SELECT 1",
            "INSERT INTO t DEFAULT VALUES",
            "INSERT INTO t SELECT 1",
            "INSERT INTO t (VALUES (1), (2))",
            "INSERT INTO t VALUES (1), (2) ORDER BY 1 LIMIT 1",
            "INSERT INTO t VALUES (1) UNION VALUES (2)",
            "INSERT INTO t VALUES (1); SELECT 1",
            "INSERT INTO t VALUES (1) RETURNING a; SELECT 1",
            "WITH x AS (DELETE FROM y RETURNING z) INSERT INTO t VALUES (1)",
            "INSERT INTO t VALUES (1), ",
            "INSERT INTO t VALUES (1",
            "INSERT INTO t VALUES (1) RETURNING 'a",
            "INSERT INTO t VALUES (1))",
        ] {
            assert_eq!(find(text), None, "{text}");
        }
    }

    #[test]
    fn parts_have_their_rows_and_parameters() {
        let text = b"INSERT INTO t (a, b) VALUES ($2, '$9'), ($4,$1) , ($3, $2) ON CONFLICT DO NOTHING RETURNING a + $6";
        let dialect = Dialect::default();
        let rows = InsertRows::find(text, dialect).unwrap();
        let part = |kept: &[usize]| {
            let part = rows.part(text, dialect, |row| kept.contains(&row))?;
            Some((String::from_utf8(part.text).unwrap(), part.parameters))
        };
        let statement = |rows: &str, last: u8| {
            format!(
                "INSERT INTO t (a, b) VALUES {rows} ON CONFLICT DO NOTHING RETURNING a + ${last}"
            )
        };
        assert_eq!(part(&[1]), Some((statement("($2,$1)", 3), vec![1, 4, 6])));
        let outer = statement("($1, '$9'), ($2, $1)", 3);
        assert_eq!(part(&[0, 2]), Some((outer, vec![2, 3, 6])));
        assert_eq!(part(&[]), None);
    }

    /// Each row is in exactly one part, as it was.
    #[test]
    fn parts_make_the_whole() {
        let rows: Vec<_> = (0..100).map(|row| format!("({row}, 'x{row}')")).collect();
        let text = format!("INSERT INTO t VALUES {}", rows.join(","));
        let dialect = Dialect::default();
        let found = InsertRows::find(text.as_bytes(), dialect).unwrap();
        assert_eq!(found.count(), 100);
        let mut seen = Vec::new();
        for shard in 0..3 {
            let part = found
                .part(text.as_bytes(), dialect, |row| row % 3 == shard)
                .unwrap();
            assert!(part.parameters.is_empty());
            let again = InsertRows::find(&part.text, dialect).unwrap();
            let texts = again
                .ranges()
                .iter()
                .map(|range| part.text[range.clone()].to_vec());
            seen.extend(texts.map(|text| String::from_utf8(text).unwrap()));
        }
        seen.sort();
        let mut expected = rows;
        expected.sort();
        assert_eq!(seen, expected);
    }
}
