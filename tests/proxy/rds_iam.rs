//! Logins to RDS with tokens of AWS IAM: what is signed, when it is made anew, and where it is not sent.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{channel, Receiver, Sender};
use std::sync::Arc;

use crate::support::postgres::{ALICE, PASSWORD};
use crate::support::process::{poll, PATIENCE};
use crate::support::scripted::{one_row, serve};
use crate::support::scripted_tls::{accept, message, untagged};
use crate::support::sigv4::{parts, Claim};
use crate::support::wire::tagged;
use crate::support::{Certificates, Config, Pgdog, Wire};

const DATABASE: &str = "rds";
/// A name that a URL cannot hold as it is.
const SERVER_USER: &str = "iam user&+é";
const REGION: &str = "eu-west-1";

/// Settings of a user who logs in to servers with tokens.
fn user() -> String {
    format!(
        "password = {PASSWORD:?}\nserver_user = {SERVER_USER:?}\nserver_auth = \"rds_iam\"\nserver_iam_region = {REGION:?}"
    )
}

/// pgdog in front of the server on this port, with these variables of AWS's.
fn pgdog(port: u16, general: &str, variables: &[String]) -> Pgdog {
    let authority = Certificates::shared().path("authority.crt");
    let mut wrapper = vec!["env", "AWS_EC2_METADATA_DISABLED=true"];
    wrapper.extend(variables.iter().map(String::as_str));
    Config::empty()
        .general(&format!(
            "min_pool_size = 0\nidle_healthcheck_interval = 0\nban_timeout = 0\n\
             tls_server_ca_certificate = {authority:?}\n{general}"
        ))
        .host(DATABASE, "localhost", port, "")
        .user(ALICE, DATABASE, &user())
        .through(&wrapper)
        .start()
}

const VERIFIED: &str = "tls_verify = \"verify_full\"";

fn statically(session_token: Option<&str>) -> Vec<String> {
    let mut variables = vec![
        "AWS_ACCESS_KEY_ID=AKIDEXAMPLE".to_owned(),
        "AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
    ];
    variables.extend(session_token.map(|token| format!("AWS_SESSION_TOKEN={token}")));
    variables
}

/// A server that has TLS, asks for a password in clear text and takes every token that is well signed, but refuses the
/// first `refused`. What it was given comes out.
fn rds(claim: Claim<'static>, refused: usize) -> (u16, Receiver<String>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let host: &str = format!("localhost:{port}").leak();
    let claim = Arc::new(Claim { host, ..claim });
    let (tokens, received) = channel();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            let (claim, tokens) = (Arc::clone(&claim), tokens.clone());
            std::thread::spawn(move || session(stream, &claim, &tokens, number >= refused));
        }
    });
    (port, received)
}

fn session(
    stream: TcpStream,
    claim: &Claim<'_>,
    tokens: &Sender<String>,
    welcome: bool,
) -> Option<()> {
    let mut stream = accept(stream)?;
    let startup = untagged(&mut stream)?;
    let named = [b"user\0", SERVER_USER.as_bytes(), b"\0"].concat();
    assert!(startup.windows(named.len()).any(|part| part == named));
    stream.write_all(&tagged(b'R', &[0, 0, 0, 3])).ok()?;
    let (tag, body) = message(&mut stream)?;
    assert_eq!(tag, b'p');
    let token = String::from_utf8(body[..body.len() - 1].to_vec()).expect("text");
    let (endpoint, pairs) = parts(&token);
    let right =
        endpoint == format!("{}/", claim.host) && pairs == claim.pairs(&pairs["X-Amz-Date"]);
    tokens.send(token).ok()?;
    if !right || !welcome {
        let error = b"SFATAL\0VFATAL\0C28P01\0MPAM authentication failed\0\0";
        return stream.write_all(&tagged(b'E', error)).ok();
    }
    let mut reply = tagged(b'R', &[0; 4]);
    for pair in [
        "server_version\x0015.0\0",
        "client_encoding\0UTF8\0",
        "standard_conforming_strings\0on\0",
    ] {
        reply.extend(tagged(b'S', pair.as_bytes()));
    }
    reply.extend(tagged(b'Z', b"I"));
    stream.write_all(&reply).ok()?;
    while let (b'Q', sql) = message(&mut stream)? {
        let begun = [tagged(b'C', b"BEGIN\0"), tagged(b'Z', b"T")].concat();
        let answer = if sql == b"BEGIN\0" {
            begun
        } else {
            one_row("1")
        };
        stream.write_all(&answer).ok()?;
    }
    Some(())
}

fn claim(session_token: Option<&'static str>) -> Claim<'static> {
    Claim {
        access_key: "AKIDEXAMPLE",
        secret_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
        session_token,
        region: REGION,
        host: "",
        user: SERVER_USER,
    }
}

/// Gives credentials as a container's agent does, that last as long as it is told. What it was asked comes out.
fn agent(seconds: i64) -> (u16, Receiver<String>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let (asked, requests) = channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = String::new();
            let mut reader = BufReader::new(stream.try_clone().expect("a socket"));
            while !head.ends_with("\r\n\r\n")
                && reader.read_line(&mut head).is_ok_and(|read| read > 0)
            {}
            let expiration = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
            let body = serde_json::json!({
                "AccessKeyId": "AKIDEXAMPLE",
                "SecretAccessKey": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
                "Token": "session/token==",
                "Expiration": format!("{expiration:.0}"),
            })
            .to_string();
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
            let _ = stream.write_all(answer.as_bytes());
            if asked.send(head).is_err() {
                return;
            }
        }
    });
    (port, requests)
}

fn by_agent(port: u16) -> Vec<String> {
    vec![
        format!("AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1:{port}/role"),
        "AWS_CONTAINER_AUTHORIZATION_TOKEN=pass".to_owned(),
    ]
}

fn log_in(pgdog: &Pgdog) -> Result<Wire, String> {
    let login = Wire::login(pgdog.port(), ALICE, DATABASE, PASSWORD);
    login.map_err(|refused| {
        let error = refused.0.last().expect("an error");
        format!("{} {}", error.field(b'C'), error.field(b'M'))
    })
}

/// As many clients as hold a server each.
fn clients(pgdog: &Pgdog, count: usize) -> Vec<Wire> {
    let client = || {
        let mut client = log_in(pgdog).expect("a token that is right");
        client.query("BEGIN");
        client
    };
    std::iter::repeat_with(client).take(count).collect()
}

#[test]
fn a_token_is_signed_for_host_port_user_and_region_and_used_again() {
    for session_token in [None, Some("session/token==")] {
        let (port, tokens) = rds(claim(session_token), 0);
        let pgdog = pgdog(port, VERIFIED, &statically(session_token));
        let mut client = log_in(&pgdog).expect("a token that is right");
        assert_eq!(client.value("SELECT 1"), "1");
        drop(client);
        let first = tokens.recv_timeout(PATIENCE).expect("a token");
        drop(clients(&pgdog, 2));
        let second = tokens.recv_timeout(PATIENCE).expect("another login");
        assert_eq!(first, second);
        let (_, pairs) = parts(&first);
        let signed = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", &pairs["X-Amz-Date"])
            .expect("a date")
            .to_zoned(jiff::tz::TimeZone::UTC)
            .expect("a time");
        let age = jiff::Timestamp::now().duration_since(signed.timestamp());
        assert!(age.as_secs().abs() < 900, "{pairs:?}");
        let log = pgdog.log();
        assert!(
            !log.contains(&pairs["X-Amz-Signature"]) && !log.contains("wJalr"),
            "{log}"
        );
        pgdog.stop();
    }
}

#[test]
fn credentials_come_from_a_containers_agent_and_are_asked_for_anew_when_they_expire() {
    // Those of an hour serve for a token of 15 minutes, which all connections use; those of half a minute for one each.
    for (seconds, asked) in [(3600, 1), (30, 3)] {
        let (port, tokens) = rds(claim(Some("session/token==")), 0);
        let (agent, requests) = agent(seconds);
        let pgdog = pgdog(port, VERIFIED, &by_agent(agent));
        drop(clients(&pgdog, 3));
        for _ in 0..3 {
            tokens.recv_timeout(PATIENCE).expect("a token");
        }
        let requests: Vec<_> = requests.try_iter().collect();
        assert_eq!(requests.len(), asked, "{requests:?}");
        let head = requests[0].to_ascii_lowercase();
        assert!(
            head.starts_with("get /role ") && head.contains("authorization: pass"),
            "{head}"
        );
        pgdog.stop();
    }
}

#[test]
fn a_token_that_the_server_refuses_is_not_used_again() {
    let (port, tokens) = rds(claim(Some("session/token==")), 1);
    let (agent, requests) = agent(3600);
    let pgdog = pgdog(port, VERIFIED, &by_agent(agent));
    let refused = log_in(&pgdog).err().expect("it is refused at first");
    assert!(refused.starts_with("57P03 "), "{refused}");
    pgdog.logged("PAM authentication failed");
    poll(PATIENCE, "the next token to be taken", || {
        log_in(&pgdog).ok()
    });
    assert!(tokens.try_iter().count() >= 2);
    assert_eq!(requests.try_iter().count(), 2);
    pgdog.stop();
}

#[test]
fn without_credentials_it_says_so() {
    let (port, tokens) = rds(claim(None), 0);
    let pgdog = pgdog(port, VERIFIED, &[]);
    let refused = log_in(&pgdog).err().expect("nothing to log in with");
    assert!(refused.starts_with("57P03 "), "{refused}");
    pgdog.logged("no RDS IAM token for iam user&+é at localhost: ");
    assert_eq!(tokens.try_iter().count(), 0);
    pgdog.stop();
}

#[test]
fn a_server_without_tls_is_sent_no_token() {
    let (sent, received) = channel();
    let port = serve(move |mut peer| {
        // It says no to encryption, then lets in whoever says anything.
        if peer.log_in(false).is_some() {
            let _ = sent.send(());
        }
    });
    let pgdog = pgdog(port, "tls_verify = \"prefer\"", &statically(None));
    let refused = log_in(&pgdog).err().expect("no encryption, no token");
    assert!(refused.starts_with("57P03 "), "{refused}");
    pgdog.logged("the server has no TLS, and tokens of RDS IAM are not sent without");
    assert_eq!(received.try_iter().count(), 0);
    pgdog.stop();
}
