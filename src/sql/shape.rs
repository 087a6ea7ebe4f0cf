//! The shape of a text: what is left of it when the literals are lifted out whose values do not matter.
//!
//! One pass, no allocation once the buffers have grown. White space becomes one space, comments vanish (hints in
//! them are noted), and in place of a lifted literal stands a zero byte and its kind, which no text can have. What
//! is left is compared byte by byte, so two texts of one shape differ in nothing but the lifted literals.
//!
//! A literal is lifted only where it can be nothing but a value: compared or combined in WHERE and ON, in rows of
//! VALUES, assigned by SET of an UPDATE. All others stay in the shape: `LIMIT 10`, `ORDER BY 2`, what is selected
//! (it may have to be found again in GROUP BY), `DATE '2026-01-01'`. In doubt a literal stays, which costs a
//! second analysis and never a wrong one.

use super::hints::Hints;
use super::lexer::{Dialect, Kind, Lexer, Token};

/// A literal that was lifted out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Literal {
    /// Where in the text it begins.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// A number or one of the kinds of strings.
    pub kind: Kind,
}

impl Literal {
    /// As it is written, quotes included.
    pub fn of<'t>(&self, text: &'t [u8]) -> &'t [u8] {
        text.get(self.start..self.end).unwrap_or_default()
    }
}

/// What a pass over a text finds. Its buffers are used again.
#[derive(Debug, Default)]
pub(super) struct Shape {
    /// What is left of the text, behind a byte for the dialect.
    pub(super) key: Vec<u8>,
    /// In order.
    pub(super) literals: Vec<Literal>,
    pub(super) hints: Hints,
    /// States of the open parentheses, without the innermost.
    outer: Vec<State>,
    /// What of the text is to be copied next: tokens that follow each other as they are, with single spaces between.
    run: Run,
}

/// Bytes of the text from `start` to `end`.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    start: usize,
    end: usize,
}

/// What stands between two tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gap {
    None,
    /// One space.
    Space,
    /// Anything else that becomes one space.
    Wide,
}

/// What happens to literals at this place, and what to those in parentheses that open here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the beginning of a statement or subquery: they stay; parentheses begin anew.
    Start,
    /// In WHERE, ON, VALUES or SET: they are lifted; parentheses begin with the same.
    Lift,
    /// In FROM: they stay; parentheses begin anew.
    From,
    /// In a list of outputs, GROUP BY, ORDER BY, LIMIT …: they stay, also in all parentheses.
    Keep,
    /// In parentheses of the above, or in a statement of another kind: they stay to its end.
    Locked,
}

/// Words that the pass tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Other,
    /// Begins a statement in which literals may be lifted: INSERT, UPDATE, DELETE, MERGE, TABLE.
    Verb,
    Select,
    With,
    Values,
    Execute,
    Set,
    /// WHERE, ON.
    Condition,
    From,
    /// JOIN, USING: also names, among outputs.
    Source,
    Distinct,
    /// UNION, INTERSECT, EXCEPT.
    Combine,
    /// GROUP, HAVING, ORDER, LIMIT, OFFSET, FETCH, RETURNING, WINDOW, FOR.
    Tail,
    /// A literal that follows is a value: AND, OR, NOT, LIKE, ILIKE, BETWEEN, THEN, ELSE, WHEN.
    Operator,
}

impl Shape {
    /// Reads a text. False: it has a zero byte or ends within a token; no server takes it as it is, and it has no shape.
    pub(super) fn read(&mut self, text: &[u8], dialect: Dialect) -> bool {
        self.key.clear();
        self.literals.clear();
        self.outer.clear();
        self.run = Run::default();
        self.hints = Hints::default();
        if memchr::memchr(0, text).is_some() {
            return false;
        }
        self.key.reserve(text.len() + 1);
        self.key
            .push(u8::from(dialect.backslashes) | u8::from(dialect.overlapping) << 1);

        let mut state = State::Start;
        let mut begun = false;
        let mut gap = Gap::None;
        let mut previous = Word::Other;
        let mut previous_kind = Kind::Semicolon;
        // States of open parentheses take a byte each, and there are no more of them than bytes.
        for token in Lexer::new(text, dialect) {
            let mut word = Word::Other;
            match token.kind {
                Kind::Space => {
                    gap = match gap {
                        Gap::None if token.of(text) == b" " => Gap::Space,
                        _ => Gap::Wide,
                    };
                    continue;
                }
                Kind::Comment => {
                    self.hints.read(text, token.start, token.end);
                    gap = Gap::Wide;
                    continue;
                }
                _ => {}
            }
            self.approach(token, std::mem::replace(&mut gap, Gap::None), text);
            match token.kind {
                Kind::Word => {
                    word = classify(token.of(text));
                    if begun {
                        state = next(state, previous, word);
                    } else {
                        begun = true;
                        state = first(word);
                    }
                    self.copy(token);
                }
                Kind::Number | Kind::String | Kind::EscapeString | Kind::DollarString => {
                    let value = previous == Word::Operator
                        || matches!(
                            previous_kind,
                            Kind::Operator | Kind::Open | Kind::Comma | Kind::Other
                        );
                    // `N'…'` is a string and a cast, at two places.
                    let plain = !matches!(text.get(token.start), Some(b'n' | b'N'));
                    if state == State::Lift && value && plain {
                        self.lift(token, text);
                    } else {
                        self.copy(token);
                    }
                }
                Kind::Open => {
                    self.copy(token);
                    self.outer.push(state);
                    state = match state {
                        State::Start | State::From => State::Start,
                        State::Lift => State::Lift,
                        State::Keep | State::Locked => State::Locked,
                    };
                }
                Kind::Close => {
                    self.copy(token);
                    state = self.outer.pop().unwrap_or(state);
                }
                Kind::Semicolon => {
                    self.copy(token);
                    if self.outer.is_empty() {
                        state = State::Start;
                        begun = false;
                    }
                }
                Kind::Unterminated => return false,
                _ => self.copy(token),
            }
            previous = word;
            previous_kind = token.kind;
        }
        self.flush(text);
        true
    }

    /// Gives back buffers that are larger than this.
    pub(super) fn shrink(&mut self, bytes_max: usize) {
        if self.key.capacity() > bytes_max {
            *self = Self::default();
        }
    }

    /// A token follows behind this gap.
    #[inline]
    fn approach(&mut self, token: Token, gap: Gap, text: &[u8]) {
        let first = self.key.len() <= 1 && self.run.start == self.run.end;
        match gap {
            Gap::None if self.run.end == token.start => {}
            Gap::Space if !first => self.run.end = token.start,
            Gap::Wide if !first => {
                self.flush(text);
                self.key.push(b' ');
                self.begin_run(token.start);
            }
            _ => {
                self.flush(text);
                self.begin_run(token.start);
            }
        }
    }

    fn begin_run(&mut self, at: usize) {
        self.run = Run { start: at, end: at };
    }

    /// Copies what is to be copied so far.
    fn flush(&mut self, text: &[u8]) {
        let Run { start, end } = self.run;
        self.key
            .extend_from_slice(text.get(start..end).unwrap_or_default());
        self.begin_run(end);
    }

    #[inline]
    fn copy(&mut self, token: Token) {
        self.run.end = token.end;
    }

    fn lift(&mut self, token: Token, text: &[u8]) {
        let code = lifted_as(token.kind, token.of(text));
        self.flush(text);
        self.key.extend_from_slice(&[0, code]);
        self.begin_run(token.end);
        self.literals.push(Literal {
            start: token.start,
            end: token.end,
            kind: token.kind,
        });
    }
}

/// What stands in the key for a literal, behind a zero byte. It tells the kinds apart, and integers from other numbers.
pub(super) fn lifted_as(kind: Kind, written: &[u8]) -> u8 {
    match kind {
        Kind::String => b's',
        Kind::EscapeString => b'e',
        Kind::DollarString => b'd',
        _ if written.iter().all(u8::is_ascii_digit) => b'i',
        _ => b'n',
    }
}

/// The state after the first word of a statement, parentheses before it aside.
fn first(word: Word) -> State {
    match word {
        Word::Select => State::Keep,
        Word::Verb | Word::With => State::Start,
        Word::Values | Word::Execute => State::Lift,
        _ => State::Locked,
    }
}

/// The state after a word. Words that may be names change it only where they cannot be meant as such.
fn next(state: State, previous: Word, word: Word) -> State {
    match (word, state) {
        (_, State::Locked) => State::Locked,
        (Word::Select | Word::Tail, _) => State::Keep,
        (Word::Condition, _) if previous != Word::Distinct => State::Lift,
        (Word::Values | Word::Set, State::Start) => State::Lift,
        (Word::From, _) if previous != Word::Distinct => State::From,
        (Word::Source, State::Start | State::Lift) => State::From,
        (Word::Combine, _) | (Word::With, State::Lift) => State::Start,
        _ => state,
    }
}

#[inline]
fn classify(word: &[u8]) -> Word {
    let Some(first) = word.first() else {
        return Word::Other;
    };
    macro_rules! one_of {
        ($($text:literal => $word:ident),* $(,)?) => {{
            $( if word.eq_ignore_ascii_case($text) { return Word::$word; } )*
        }};
    }
    match first | 0x20 {
        b'a' => one_of!(b"and" => Operator),
        b'b' => one_of!(b"between" => Operator),
        b'd' => one_of!(b"delete" => Verb, b"distinct" => Distinct),
        b'e' => one_of!(b"else" => Operator, b"except" => Combine, b"execute" => Execute),
        b'f' => one_of!(b"from" => From, b"for" => Tail, b"fetch" => Tail),
        b'g' => one_of!(b"group" => Tail),
        b'h' => one_of!(b"having" => Tail),
        b'i' => one_of!(b"insert" => Verb, b"intersect" => Combine, b"ilike" => Operator),
        b'j' => one_of!(b"join" => Source),
        b'l' => one_of!(b"like" => Operator, b"limit" => Tail),
        b'm' => one_of!(b"merge" => Verb),
        b'n' => one_of!(b"not" => Operator),
        b'o' => one_of!(b"on" => Condition, b"or" => Operator, b"order" => Tail, b"offset" => Tail),
        b'r' => one_of!(b"returning" => Tail),
        b's' => one_of!(b"select" => Select, b"set" => Set),
        b't' => one_of!(b"table" => Verb, b"then" => Operator),
        b'u' => one_of!(b"update" => Verb, b"using" => Source, b"union" => Combine),
        b'v' => one_of!(b"values" => Values),
        b'w' => {
            one_of!(b"where" => Condition, b"when" => Operator, b"with" => With, b"window" => Tail)
        }
        _ => {}
    }
    Word::Other
}
