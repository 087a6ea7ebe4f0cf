//! Where a line of COPY ends: escapes and quotes, three kinds of newline, the end marker.
//!
//! As `CopyReadLineText` of the server has it: the first line says how lines end, and other ends are an error outside of
//! quotes; in text format a backslash takes the byte behind it, a newline too.

use memchr::{memchr, memchr2, memchr3};

/// Looks for the end of a line, over as many pieces as it takes.
#[derive(Clone, Debug)]
pub(super) struct LineScan {
    syntax: Syntax,
    mode: Mode,
    newline: Newline,
    /// The last piece ended in a carriage return that may be half a newline.
    half_newline: bool,
    /// This row has a `\.` in it.
    marker: bool,
}

#[derive(Clone, Copy, Debug)]
enum Syntax {
    Text,
    Csv {
        quote: u8,
        escape: u8,
        end_marker: bool,
    },
}

#[derive(Clone, Copy, Debug)]
enum Mode {
    Plain,
    /// Text: behind a backslash.
    Escaped,
    /// CSV: in quotes.
    Quoted,
    /// CSV: in quotes, behind the escape character.
    QuotedEscaped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Newline {
    Unknown,
    Feed,
    Return,
    ReturnFeed,
}

const RETURN: &str = "literal carriage return";
const FEED: &str = "literal newline";

impl LineScan {
    pub(super) fn text() -> Self {
        Self::new(Syntax::Text)
    }

    pub(super) fn csv(quote: u8, escape: u8, end_marker: bool) -> Self {
        Self::new(Syntax::Csv {
            quote,
            escape,
            end_marker,
        })
    }

    fn new(syntax: Syntax) -> Self {
        Self {
            syntax,
            mode: Mode::Plain,
            newline: Newline::Unknown,
            half_newline: false,
            marker: false,
        }
    }

    /// How many bytes of this piece belong to the row that ends in it; none do if only now it is known that the carriage
    /// return before was a newline. `None`: all of them, and it does not end.
    pub(super) fn feed(&mut self, piece: &[u8]) -> Result<Option<usize>, &'static str> {
        if self.half_newline {
            let Some(byte) = piece.first() else {
                return Ok(None);
            };
            self.half_newline = false;
            return self
                .after_return(Some(*byte))
                .map(|more| Some(more.unwrap_or(0)));
        }
        let mut at = 0;
        loop {
            let rest = piece.get(at..).unwrap_or_default();
            let Some(found) = self.find(rest) else {
                return Ok(None);
            };
            let byte = rest.get(found).copied().unwrap_or_default();
            at += found + 1;
            match (self.mode, byte) {
                (Mode::Plain, b'\n') => {
                    if matches!(self.newline, Newline::Return | Newline::ReturnFeed) {
                        return Err(FEED);
                    }
                    self.newline = Newline::Feed;
                    return Ok(Some(at));
                }
                (Mode::Plain, b'\r') => match self.newline {
                    Newline::Feed => return Err(RETURN),
                    Newline::Return => return Ok(Some(at)),
                    Newline::Unknown | Newline::ReturnFeed => {
                        let next = piece.get(at).copied();
                        return match self.after_return(next)? {
                            Some(more) => Ok(Some(at + more)),
                            None => {
                                self.half_newline = true;
                                Ok(None)
                            }
                        };
                    }
                },
                (Mode::Plain, _) => {
                    self.mode = match self.syntax {
                        Syntax::Text => Mode::Escaped,
                        Syntax::Csv { .. } => Mode::Quoted,
                    }
                }
                (Mode::Escaped, byte) => {
                    self.marker |= byte == b'.';
                    self.mode = Mode::Plain;
                }
                (Mode::Quoted, byte) => {
                    let Syntax::Csv { quote, .. } = self.syntax else {
                        continue;
                    };
                    self.mode = match byte == quote {
                        true => Mode::Plain,
                        false => Mode::QuotedEscaped,
                    };
                }
                (Mode::QuotedEscaped, _) => self.mode = Mode::Quoted,
            }
        }
    }

    /// The next byte that matters.
    fn find(&self, rest: &[u8]) -> Option<usize> {
        match (self.mode, self.syntax) {
            (Mode::Plain, Syntax::Text) => memchr3(b'\n', b'\r', b'\\', rest),
            (Mode::Plain, Syntax::Csv { quote, .. }) => memchr3(b'\n', b'\r', quote, rest),
            (Mode::Quoted, Syntax::Csv { quote, escape, .. }) if quote == escape => {
                memchr(quote, rest)
            }
            (Mode::Quoted, Syntax::Csv { quote, escape, .. }) => memchr2(quote, escape, rest),
            _ => (!rest.is_empty()).then_some(0),
        }
    }

    /// Is a carriage return a newline, given the byte behind it? So many bytes more belong to it; `None`: that byte has
    /// not come.
    fn after_return(&mut self, next: Option<u8>) -> Result<Option<usize>, &'static str> {
        match (next, self.newline) {
            (None, _) => Ok(None),
            (Some(b'\n'), _) => {
                self.newline = Newline::ReturnFeed;
                Ok(Some(1))
            }
            (Some(_), Newline::ReturnFeed) => Err(RETURN),
            (Some(_), _) => {
                self.newline = Newline::Return;
                Ok(Some(0))
            }
        }
    }

    /// Bytes of a newline.
    pub(super) fn terminator(&self) -> usize {
        match self.newline {
            Newline::Unknown => 0,
            Newline::Feed | Newline::Return => 1,
            Newline::ReturnFeed => 2,
        }
    }

    /// The row has these bytes: is it the end marker?
    pub(super) fn end_row(&mut self, bytes: &[u8]) -> Result<bool, &'static str> {
        let marker = std::mem::take(&mut self.marker);
        let content = bytes.len().saturating_sub(self.terminator());
        let alone = bytes.get(..content) == Some(b"\\.");
        match self.syntax {
            Syntax::Text if marker && !alone => Err("end-of-copy marker is not alone on its line"),
            Syntax::Text => Ok(alone),
            Syntax::Csv { end_marker, .. } => Ok(alone && end_marker),
        }
    }

    /// No more data: may this be the last row? Bytes of its terminator.
    pub(super) fn finish(&self, rest: &[u8]) -> Result<usize, &'static str> {
        if matches!(self.mode, Mode::Quoted | Mode::QuotedEscaped) {
            return Err("unterminated CSV quoted field");
        }
        if self.marker {
            return Err("end-of-copy marker corrupt");
        }
        match (self.half_newline, self.newline) {
            (true, Newline::ReturnFeed) => Err(RETURN),
            (true, _) => Ok(1),
            (false, _) => Ok(0),
        }
        .map(|terminator| terminator.min(rest.len()))
    }
}
