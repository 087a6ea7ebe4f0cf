//! A blocking PostgreSQL client that sends and shows single protocol messages.
//!
//! It is written from the documentation alone and shares no code with the library under test.
//! Replies are compared as text, one word per message: the tag, and what matters of the body after a colon.
//! `T D:1|x C:SELECT_1 Z:I` is a row of two columns; `E:22012` an error of that SQLSTATE.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256, SCRAM_SHA_256};

use super::process::PATIENCE;

/// Protocol versions as the startup message writes them.
pub(crate) const VERSION_3_0: u32 = 3 << 16;
pub(crate) const VERSION_3_2: u32 = 3 << 16 | 2;
pub(crate) const SSL_REQUEST: u32 = 1234 << 16 | 5679;
pub(crate) const GSSENC_REQUEST: u32 = 1234 << 16 | 5680;
pub(crate) const CANCEL_REQUEST: u32 = 1234 << 16 | 5678;

/// One connection.
pub(crate) struct Wire {
    stream: TcpStream,
    /// Body of BackendKeyData: process and secret.
    key: Vec<u8>,
}

/// One message of the server.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) tag: u8,
    pub(crate) body: Vec<u8>,
}

/// All that was received when a login failed, the error last.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) Vec<Message>);

impl Wire {
    /// Connects without saying anything.
    pub(crate) fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port))
            .unwrap_or_else(|error| panic!("connect to port {port}: {error}"));
        stream.set_nodelay(true).expect("a TCP socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
        stream.set_write_timeout(Some(PATIENCE)).expect("not zero");
        Self {
            stream,
            key: Vec::new(),
        }
    }

    /// Connects and logs in.
    #[track_caller]
    pub(crate) fn connect(port: u16, user: &str, database: &str, password: &str) -> Self {
        match Self::login(port, user, database, password) {
            Ok(wire) => wire,
            Err(refused) => panic!("login of {user} to {database}: {refused:?}"),
        }
    }

    /// Connects and logs in, or gives what the server said instead.
    pub(crate) fn login(
        port: u16,
        user: &str,
        database: &str,
        password: &str,
    ) -> Result<Self, Refused> {
        let mut wire = Self::open(port);
        wire.send(&startup(
            VERSION_3_0,
            &[("user", user), ("database", database)],
        ));
        wire.authenticate(user, password)?;
        Ok(wire)
    }

    /// Answers whatever the server asks after the startup message, up to ReadyForQuery; gives all messages.
    pub(crate) fn authenticate(
        &mut self,
        user: &str,
        password: &str,
    ) -> Result<Vec<Message>, Refused> {
        let mut seen = Vec::new();
        let mut scram = None;
        loop {
            let Ok(message) = self.try_read() else {
                return Err(Refused(seen));
            };
            seen.push(message.clone());
            match message.tag {
                b'R' => self.answer(&message, user, password, &mut scram),
                b'K' => self.key = message.body,
                b'E' => return Err(Refused(seen)),
                b'Z' => return Ok(seen),
                _ => {}
            }
        }
    }

    fn answer(
        &mut self,
        message: &Message,
        user: &str,
        password: &str,
        scram: &mut Option<ScramSha256>,
    ) {
        let (kind, rest) = message
            .body
            .split_first_chunk::<4>()
            .expect("a kind of authentication");
        match u32::from_be_bytes(*kind) {
            0 => {}
            3 => self.send(&tagged(b'p', &cstr(password))),
            5 => {
                let hash = md5_hash(
                    user.as_bytes(),
                    password.as_bytes(),
                    rest.try_into().expect("four bytes of salt"),
                );
                self.send(&tagged(b'p', &cstr(&hash)));
            }
            10 => {
                let client = scram.insert(ScramSha256::new(
                    password.as_bytes(),
                    ChannelBinding::unsupported(),
                ));
                let first = client.message();
                let length = u32::try_from(first.len()).expect("short").to_be_bytes();
                self.send(&tagged(
                    b'p',
                    &[&cstr(SCRAM_SHA_256)[..], &length, first].concat(),
                ));
            }
            11 => {
                let client = scram.as_mut().expect("SASL has begun");
                client.update(rest).expect("a server-first message");
                let answer = client.message().to_vec();
                self.send(&tagged(b'p', &answer));
            }
            12 => scram
                .as_mut()
                .expect("SASL has begun")
                .finish(rest)
                .expect("the server knows the password too"),
            other => panic!("unknown authentication request {other}"),
        }
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("send");
    }

    /// Sends bytes; the server may have closed or stopped reading.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next message.
    #[track_caller]
    pub(crate) fn read(&mut self) -> Message {
        self.try_read()
            .unwrap_or_else(|error| panic!("read a message: {error}"))
    }

    /// The next message, or why there is none: end of stream, reset, time-out.
    pub(crate) fn try_read(&mut self) -> io::Result<Message> {
        let mut header = [0; 5];
        self.stream.read_exact(&mut header)?;
        let [tag, length @ ..] = header;
        let length = u32::from_be_bytes(length)
            .checked_sub(4)
            .expect("a length counts itself");
        let mut body = vec![0; usize::try_from(length).expect("64 bit")];
        self.stream.read_exact(&mut body)?;
        Ok(Message { tag, body })
    }

    /// The tag of the next message, left unread; None when nothing comes within the patience.
    pub(crate) fn peek(&self) -> Option<u8> {
        let mut tag = [0];
        self.stream.peek(&mut tag).ok().map(|_| tag[0])
    }

    /// Has nothing come yet?
    pub(crate) fn is_silent(&self) -> bool {
        self.stream.set_nonblocking(true).expect("a TCP socket");
        let silent = self.stream.peek(&mut [0]).is_err();
        self.stream.set_nonblocking(false).expect("a TCP socket");
        silent
    }

    /// The rows of a simple query that must succeed; NULL is empty.
    #[track_caller]
    pub(crate) fn rows(&mut self, sql: &str) -> Vec<Vec<String>> {
        self.send(&query(sql));
        let messages = self.read_until(b'Z');
        assert_ne!(transcript(&messages).get(..1), Some("E"), "{sql}");
        let rows = messages.iter().filter(|message| message.tag == b'D');
        let values = |row: &Message| row.values().into_iter().map(Option::unwrap_or_default);
        rows.map(|row| values(row).collect()).collect()
    }

    /// Untagged bytes: the answer to SSLRequest, or part of a long result.
    pub(crate) fn read_bytes(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.stream.read(bytes)
    }

    /// All messages up to and including the first with this tag.
    #[track_caller]
    pub(crate) fn read_until(&mut self, tag: u8) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            match self.try_read() {
                Ok(message) => messages.push(message),
                Err(error) => panic!("after {:?}: {error}", transcript(&messages)),
            }
            if messages.last().is_some_and(|message| message.tag == tag) {
                return messages;
            }
        }
    }

    /// The next `count` messages as text.
    #[track_caller]
    pub(crate) fn expect(&mut self, count: usize) -> String {
        transcript(&(0..count).map(|_| self.read()).collect::<Vec<_>>())
    }

    /// Messages up to this many ReadyForQuery as text.
    #[track_caller]
    pub(crate) fn batches(&mut self, count: usize) -> String {
        let messages: Vec<_> = (0..count).flat_map(|_| self.read_until(b'Z')).collect();
        transcript(&messages)
    }

    /// Reads the reply to a statement that was cancelled and the transaction's state after it. Its row may have been
    /// described before: that depends on how far the server had come.
    #[track_caller]
    pub(crate) fn expect_cancelled(&mut self, state: char) {
        let reply = self.batches(1);
        assert!(is_cancelled(&reply, state), "{reply}");
    }

    /// Messages up to the end of the stream as text.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> String {
        let mut messages = Vec::new();
        loop {
            match self.try_read() {
                Ok(message) => messages.push(message),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) =>
                {
                    panic!("still open after {:?}: {}", PATIENCE, transcript(&messages))
                }
                Err(_) => return transcript(&messages),
            }
        }
    }

    /// Sends messages together and gives the reply up to ReadyForQuery as text.
    #[track_caller]
    pub(crate) fn ask(&mut self, messages: &[Vec<u8>]) -> String {
        self.send(&messages.concat());
        transcript(&self.read_until(b'Z'))
    }

    /// Runs a simple query and gives the reply as text.
    #[track_caller]
    pub(crate) fn query(&mut self, sql: &str) -> String {
        self.ask(&[query(sql)])
    }

    /// What a simple query is answered; as far as it comes, if the session ends.
    pub(crate) fn tried(&mut self, sql: &str) -> String {
        let mut answer: Vec<Message> = Vec::new();
        let mut goes_on = self.try_send(&query(sql)).is_ok();
        while goes_on && answer.last().is_none_or(|last| last.tag != b'Z') {
            goes_on = self.try_read().map(|message| answer.push(message)).is_ok();
        }
        transcript(&answer)
    }

    /// Sends a simple query that begins a COPY and gives the one message that answers it as text.
    #[track_caller]
    pub(crate) fn begin_copy(&mut self, sql: &str) -> String {
        self.send(&query(sql));
        self.expect(1)
    }

    /// First value of the first row of a simple query that must succeed.
    #[track_caller]
    pub(crate) fn value(&mut self, sql: &str) -> String {
        self.send(&query(sql));
        let messages = self.read_until(b'Z');
        let row = messages.iter().find(|message| message.tag == b'D');
        let row = row.unwrap_or_else(|| panic!("{sql}: {}", transcript(&messages)));
        row.values().into_iter().next().flatten().expect("not null")
    }

    /// Asks to cancel what this connection runs, on a socket of its own, and waits for that to be closed.
    pub(crate) fn cancel(port: u16, key: &[u8]) {
        let mut wire = Self::open(port);
        wire.send(&untagged(CANCEL_REQUEST, key));
        assert_eq!(wire.rest(), "", "a cancel request has no answer");
    }

    /// What BackendKeyData held: four bytes of process id, then the secret.
    pub(crate) fn key(&self) -> Vec<u8> {
        self.key.clone()
    }

    /// Ends the connection by a reset, as the kernel does for a killed client that had unread data.
    pub(crate) fn reset(self) {
        rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO))
            .expect("a TCP socket");
    }

    /// Sends nothing more, and stays to be sent what there is.
    pub(crate) fn end_sending(&self) {
        let ended = self.stream.shutdown(std::net::Shutdown::Write);
        ended.expect("an open connection");
    }

    /// How long reads and writes may take before they fail.
    pub(crate) fn patience(&self, limit: Duration) {
        self.stream.set_read_timeout(Some(limit)).expect("not zero");
        self.stream
            .set_write_timeout(Some(limit))
            .expect("not zero");
    }
}

impl Message {
    /// Columns of a DataRow as text.
    pub(crate) fn values(&self) -> Vec<Option<String>> {
        assert_eq!(self.tag, b'D');
        let mut rest = self.body.get(2..).expect("a column count");
        let mut values = Vec::new();
        while let Some((length, tail)) = rest.split_first_chunk::<4>() {
            if let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) {
                let (value, tail) = tail.split_at(length);
                values.push(Some(String::from_utf8_lossy(value).into_owned()));
                rest = tail;
            } else {
                values.push(None);
                rest = tail;
            }
        }
        values
    }

    /// Columns of a RowDescription: name, and OID of the type.
    pub(crate) fn columns(&self) -> Vec<(String, u32)> {
        assert_eq!(self.tag, b'T');
        let mut rest = self.body.get(2..).expect("a column count");
        let mut columns = Vec::new();
        while let Some(end) = rest.iter().position(|byte| *byte == 0) {
            let (name, tail) = rest.split_at(end);
            let (fixed, tail) = tail[1..].split_at(18);
            let oid = fixed[6..10].try_into().expect("four bytes");
            let name = String::from_utf8_lossy(name).into_owned();
            columns.push((name, u32::from_be_bytes(oid)));
            rest = tail;
        }
        columns
    }

    /// A field of ErrorResponse or NoticeResponse: `C` is the SQLSTATE, `M` the message, `S` the severity.
    pub(crate) fn field(&self, name: u8) -> String {
        assert!(matches!(self.tag, b'E' | b'N'));
        let mut fields = self.body.split(|byte| *byte == 0);
        let field = fields.find_map(|field| field.strip_prefix(&[name]));
        String::from_utf8_lossy(field.unwrap_or_default()).into_owned()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body)
            .trim_end_matches('\0')
            .replace(['\0', ' '], "_")
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tag = char::from(self.tag);
        match self.tag {
            b'E' | b'N' => write!(f, "{tag}:{}", self.field(b'C')),
            b'C' | b'Z' | b'd' | b'S' => write!(f, "{tag}:{}", self.text()),
            b'D' => {
                let values = self
                    .values()
                    .into_iter()
                    .map(|value| value.unwrap_or_else(|| "null".to_owned()));
                write!(f, "{tag}:{}", values.collect::<Vec<_>>().join("|"))
            }
            _ => write!(f, "{tag}"),
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tag {
            b'E' | b'N' => write!(f, "{self} {}", self.field(b'M')),
            _ => write!(f, "{self}"),
        }
    }
}

/// Messages as text, without ParameterStatus, which may come at any time.
pub(crate) fn transcript(messages: &[Message]) -> String {
    let words = messages
        .iter()
        .filter(|message| message.tag != b'S')
        .map(ToString::to_string);
    words.collect::<Vec<_>>().join(" ")
}

// Messages of the client, in the order of the protocol chapter.

/// StartupMessage.
pub(crate) fn startup(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let pairs = parameters
        .iter()
        .flat_map(|(name, value)| [cstr(name), cstr(value)]);
    untagged(
        version,
        &[pairs.collect::<Vec<_>>().concat(), vec![0]].concat(),
    )
}

/// Any message without a tag: SSLRequest and the like.
pub(crate) fn untagged(code: u32, body: &[u8]) -> Vec<u8> {
    [&length(body.len() + 8)[..], &code.to_be_bytes(), body].concat()
}

/// Any message with a tag.
pub(crate) fn tagged(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &length(body.len() + 4), body].concat()
}

pub(crate) fn query(sql: &str) -> Vec<u8> {
    tagged(b'Q', &cstr(sql))
}

/// Whether this is the reply to a cancelled statement, see [`Wire::expect_cancelled`].
pub(crate) fn is_cancelled(reply: &str, state: char) -> bool {
    reply.strip_prefix("T ").unwrap_or(reply) == format!("E:57014 Z:{state}")
}

/// A statement without parameters that is named, described, bound, described again and executed.
pub(crate) fn fully_described(statement: &str, sql: &str) -> [Vec<u8>; 6] {
    [
        parse(statement, sql),
        describe(b'S', statement),
        bind("", statement, &[]),
        describe(b'P', ""),
        execute("", 0),
        sync(),
    ]
}

/// Parse, with the types of its parameters left to the server.
pub(crate) fn parse(statement: &str, sql: &str) -> Vec<u8> {
    tagged(b'P', &[&cstr(statement)[..], &cstr(sql), &[0, 0]].concat())
}

/// Bind, everything in text format.
pub(crate) fn bind(portal: &str, statement: &str, values: &[Option<&str>]) -> Vec<u8> {
    let mut body = [cstr(portal), cstr(statement), vec![0, 0]].concat();
    body.extend(u16::try_from(values.len()).expect("few").to_be_bytes());
    for value in values {
        match value {
            Some(text) => {
                body.extend(length(text.len()));
                body.extend(text.as_bytes());
            }
            None => body.extend((-1_i32).to_be_bytes()),
        }
    }
    body.extend([0, 0]);
    tagged(b'B', &body)
}

/// Describe of a statement (`S`) or portal (`P`).
pub(crate) fn describe(kind: u8, name: &str) -> Vec<u8> {
    tagged(b'D', &[&[kind][..], &cstr(name)].concat())
}

/// Execute; zero rows means all.
pub(crate) fn execute(portal: &str, rows_max: i32) -> Vec<u8> {
    tagged(b'E', &[&cstr(portal)[..], &rows_max.to_be_bytes()].concat())
}

/// Close of a statement (`S`) or portal (`P`).
pub(crate) fn close(kind: u8, name: &str) -> Vec<u8> {
    tagged(b'C', &[&[kind][..], &cstr(name)].concat())
}

pub(crate) fn flush() -> Vec<u8> {
    tagged(b'H', &[])
}

pub(crate) fn sync() -> Vec<u8> {
    tagged(b'S', &[])
}

pub(crate) fn terminate() -> Vec<u8> {
    tagged(b'X', &[])
}

pub(crate) fn copy_data(bytes: &[u8]) -> Vec<u8> {
    tagged(b'd', bytes)
}

pub(crate) fn copy_done() -> Vec<u8> {
    tagged(b'c', &[])
}

pub(crate) fn copy_fail(reason: &str) -> Vec<u8> {
    tagged(b'f', &cstr(reason))
}

/// FunctionCall with one argument and result in text format.
pub(crate) fn function_call(function: u32, argument: &str) -> Vec<u8> {
    let argument = [&length(argument.len())[..], argument.as_bytes()].concat();
    tagged(
        b'F',
        &[
            &function.to_be_bytes()[..],
            &[0, 0, 0, 1],
            &argument,
            &[0, 0],
        ]
        .concat(),
    )
}

/// Parse, Bind and Execute of an unnamed statement and portal.
pub(crate) fn run(sql: &str, values: &[Option<&str>]) -> Vec<u8> {
    [parse("", sql), bind("", "", values), execute("", 0)].concat()
}

fn cstr(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).expect("below 4 GB").to_be_bytes()
}
