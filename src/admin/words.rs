//! The words of a command: bare ones, quoted ones, symbols.

use std::iter::Peekable;
use std::str::Chars;

/// Longest text of commands in bytes: there is nothing that long to say.
pub const TEXT_BYTES_MAX: usize = 64 * 1024;

/// A word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// As it was written; a keyword if it reads like one.
    Bare(String),
    /// What was between quotes: never a keyword.
    Quoted(String),
    /// `=`, `,`, `(`, `)`, `*` and what else is no word.
    Symbol(char),
}

/// A quote that does not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unterminated;

/// The statements of a text, each as its words. Empty ones are left out, and so are comments.
pub(super) fn statements(text: &str) -> Result<Vec<Vec<Word>>, Unterminated> {
    let mut statements = Vec::new();
    let mut words = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            ';' => statements.push(std::mem::take(&mut words)),
            '"' | '\'' => words.push(Word::Quoted(quoted(&mut chars, char)?)),
            '-' if chars.next_if_eq(&'-').is_some() => {
                while chars.next_if(|char| *char != '\n').is_some() {}
            }
            '/' if chars.next_if_eq(&'*').is_some() => comment(&mut chars)?,
            _ if char.is_whitespace() => {}
            _ if is_bare(char) => {
                let mut word = String::from(char);
                while let Some(char) = chars.next_if(|char| is_bare(*char)) {
                    word.push(char);
                }
                words.push(Word::Bare(word));
            }
            _ => words.push(Word::Symbol(char)),
        }
    }
    statements.push(words);
    statements.retain(|words| !words.is_empty());
    Ok(statements)
}

/// Names, numbers, URLs, time zones, DSNs: an argument needs quotes only for spaces and the like.
fn is_bare(char: char) -> bool {
    !char.is_whitespace() && !matches!(char, ';' | '"' | '\'' | '=' | ',' | '(' | ')' | '*')
}

/// The rest of a quoted word; a doubled quote stands for one.
fn quoted(chars: &mut Peekable<Chars<'_>>, quote: char) -> Result<String, Unterminated> {
    let mut word = String::new();
    loop {
        match chars.next() {
            None => return Err(Unterminated),
            Some(char) if char == quote && chars.next_if_eq(&quote).is_none() => return Ok(word),
            Some(char) => word.push(char),
        }
    }
}

/// The rest of a comment, which may hold others.
fn comment(chars: &mut Peekable<Chars<'_>>) -> Result<(), Unterminated> {
    let mut depth = 1_usize;
    while depth > 0 {
        match chars.next().ok_or(Unterminated)? {
            '*' if chars.next_if_eq(&'/').is_some() => depth -= 1,
            '/' if chars.next_if_eq(&'*').is_some() => depth += 1,
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_quotes_and_comments() {
        let check = |text: &str, expected: &[&str]| {
            let shown = |word: &Word| match word {
                Word::Bare(word) => word.clone(),
                Word::Quoted(word) => format!("<{word}>"),
                Word::Symbol(symbol) => symbol.to_string(),
            };
            let found: Vec<_> = statements(text)
                .unwrap()
                .iter()
                .map(|words| words.iter().map(shown).collect::<Vec<_>>().join(" "))
                .collect();
            assert_eq!(found, expected, "{text}");
        };
        check("SHOW pools", &["SHOW pools"]);
        check(" show\tpools ; ", &["show pools"]);
        check("SHOW POOLS; SHOW STATS;;", &["SHOW POOLS", "SHOW STATS"]);
        check("", &[]);
        check(" ;; -- nothing", &[]);
        check("-- ping\nSELECT 1", &["SELECT 1"]);
        check("/* a /* b */ ; */RELOAD", &["RELOAD"]);
        check("PAUSE \"My DB\"", &["PAUSE <My DB>"]);
        check("PAUSE 'it''s;'; RESUME", &["PAUSE <it's;>", "RESUME"]);
        check("SET a=5", &["SET a = 5"]);
        check("SET a TO 'b, c'", &["SET a TO <b, c>"]);
        check("SHOW CLIENTS id,state", &["SHOW CLIENTS id , state"]);
        check(
            "PROBE postgres://u:p@h:5432/d",
            &["PROBE postgres://u:p@h:5432/d"],
        );
        check("SELECT -1", &["SELECT -1"]);
        check("UNLISTEN *", &["UNLISTEN *"]);
        check("PAUSE größe", &["PAUSE größe"]);
    }

    #[test]
    fn a_quote_or_comment_must_end() {
        for text in ["PAUSE 'a", "PAUSE \"a''", "/* a", "/* /* */"] {
            assert_eq!(statements(text), Err(Unterminated), "{text}");
        }
    }
}
