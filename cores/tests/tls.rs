//! TLS on real cores, both roles, against rustls on plain blocking sockets.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "helpers of tests fail by panicking"
)]

mod support;

use std::future::poll_fn;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{mpsc, Arc};
use std::time::Duration;

use cores::tls::{Acceptor, AcceptorPem, Connector, ConnectorPem, Verify};
use cores::{start, Address, Core, Mailbox, PostOffice, Stream, TcpOptions};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig, ServerConnection,
    StreamOwned,
};

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate and key in PEM.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn acceptor(&self) -> Acceptor {
        let (certificate, key) = self.issue("localhost");
        Acceptor::new(&AcceptorPem {
            certificates: certificate.as_bytes(),
            private_key: key.as_bytes(),
            client_ca: None,
            alpn: b"test",
        })
        .unwrap()
    }

    fn client_config(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_slice(self.pem().as_bytes()).unwrap();
        roots.add(certificate).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    }

    fn server_config(&self, name: &str) -> Arc<ServerConfig> {
        let (certificate, key) = self.issue(name);
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = builder.with_no_client_auth();
        Arc::new(builder.with_single_cert(chain, key).unwrap())
    }
}

/// What takes longer never comes.
const PATIENCE: Duration = Duration::from_secs(20);

type Client = StreamOwned<ClientConnection, TcpStream>;

fn client(config: &Arc<ClientConfig>, address: SocketAddr) -> Client {
    let name = "localhost".try_into().unwrap();
    let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    StreamOwned::new(connection, socket)
}

/// Encrypts every connection on two cores and runs `session` for it, with what came along with the handshake; the
/// address, and how to stop.
fn serve<F, Fut>(acceptor: Acceptor, session: F) -> (SocketAddr, impl FnOnce())
where
    F: Fn(Stream, Vec<u8>) -> Fut + Clone + Send + 'static,
    Fut: std::future::Future<Output = ()> + 'static,
{
    support::serve(&[0, 1], move |_, stream| {
        let (acceptor, session) = (acceptor.clone(), session.clone());
        async move {
            if let Ok((stream, early)) = stream.accept_tls(&acceptor, Vec::new()).await {
                session(stream, early).await;
            }
        }
    })
}

async fn echo(stream: Stream, early: Vec<u8>) {
    stream.send_vec(early);
    while let Ok(Some(buf)) = stream.recv().await {
        if poll_fn(|cx| stream.poll_room(cx)).await.is_err() {
            return;
        }
        stream.send(buf);
    }
    let _ = stream.close().await;
}

fn pattern(bytes: usize, salt: u8) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8 ^ salt).collect()
}

#[test]
fn echoes_many_sizes_intact_and_closes_in_order() {
    let authority = Authority::new();
    let config = authority.client_config();
    let (address, stop) = serve(authority.acceptor(), echo);
    std::thread::scope(|scope| {
        for number in 0..4_u8 {
            let config = &config;
            scope.spawn(move || {
                let mut client = client(config, address);
                // More than a record, a receive, a receive buffer: what is sent at once must fit both kernels' buffers.
                for size in [1, 7, 100, 16_383, 16_384, 16_385, 22_528, 65_536, 150_000] {
                    let sent = pattern(size, number);
                    client.write_all(&sent).unwrap();
                    let mut back = vec![0; size];
                    client.read_exact(&mut back).unwrap();
                    assert!(back == sent, "{size} bytes");
                }
                client.conn.send_close_notify();
                client.flush().unwrap();
                // An end without close_notify would be an error here.
                assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
            });
        }
    });
    stop();
}

#[test]
fn much_is_sent_both_ways_at_once() {
    let authority = Authority::new();
    let (address, stop) = serve(authority.acceptor(), echo);
    let mut client = client(&authority.client_config(), address);
    let sent = pattern(20_000_000, 9);
    let (mut written, mut back) = (0, Vec::new());
    client.sock.set_nonblocking(true).unwrap();
    let mut part = vec![0; 100_000];
    while back.len() < sent.len() {
        match client.write(&sent[written..]) {
            Ok(bytes) => written += bytes,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        match client.read(&mut part) {
            Ok(bytes) => back.extend_from_slice(&part[..bytes]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    assert!(back == sent);
    stop();
}

#[test]
fn what_a_turn_sends_is_one_record() {
    let authority = Authority::new();
    let (address, stop) = serve(authority.acceptor(), |stream, _| async move {
        stream.send_static(b"ready");
        while let Ok(Some(buf)) = stream.recv().await {
            stream.send_static(b"static ");
            stream.send(buf);
            stream.send_vec(b" vector ".to_vec());
            stream.write(b"copy");
        }
    });
    let mut client = client(&authority.client_config(), address);
    client.read_exact(&mut [0; 5]).unwrap();
    client.write_all(b"second").unwrap();
    // The answer as it comes over the wire: one header, and nothing behind its record.
    let mut record = vec![0; 5];
    client.sock.read_exact(&mut record).unwrap();
    let bytes = usize::from(u16::from_be_bytes([record[3], record[4]]));
    record.resize(5 + bytes, 0);
    client.sock.read_exact(&mut record[5..]).unwrap();
    client.conn.read_tls(&mut &*record).unwrap();
    client.conn.process_new_packets().unwrap();
    let mut text = Vec::new();
    let ended = client.conn.reader().read_to_end(&mut text);
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(text, b"static second vector copy");
    stop();
}

#[test]
fn a_stream_cut_off_is_an_error_and_not_an_end() {
    let authority = Authority::new();
    let (tell, told) = mpsc::channel();
    let (address, stop) = serve(authority.acceptor(), move |stream, _| {
        let tell = tell.clone();
        async move {
            stream.send_static(b"ready");
            let end = loop {
                match stream.recv().await {
                    Ok(Some(_)) => {}
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error.kind()),
                }
            };
            tell.send(end).unwrap();
        }
    });
    let config = authority.client_config();
    // Reads the greeting, and all that came before it: unread bytes would turn the end into a reset.
    let greeted = || {
        let mut client = client(&config, address);
        client.read_exact(&mut [0; 5]).unwrap();
        client
    };
    drop(greeted());
    assert_eq!(
        told.recv_timeout(PATIENCE).unwrap(),
        Err(ErrorKind::UnexpectedEof)
    );
    let mut closed = greeted();
    closed.conn.send_close_notify();
    closed.flush().unwrap();
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Ok(()));
    let mut forged = greeted();
    forged.sock.write_all(&[23, 3, 3, 0, 32]).unwrap();
    forged.sock.write_all(&[0; 32]).unwrap();
    assert_eq!(
        told.recv_timeout(PATIENCE).unwrap(),
        Err(ErrorKind::InvalidData)
    );
    stop();
}

#[test]
fn sessions_are_resumed_on_whatever_core() {
    let authority = Authority::new();
    let config = authority.client_config();
    let (address, stop) = serve(authority.acceptor(), echo);
    let handshake = || {
        let mut client = client(&config, address);
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
        client.conn.handshake_kind().unwrap()
    };
    assert_eq!(handshake(), HandshakeKind::Full);
    for _ in 0..8 {
        assert_eq!(handshake(), HandshakeKind::Resumed);
    }
    stop();
}

#[test]
fn a_connection_moves_between_cores_with_its_keys() {
    let authority = Authority::new();
    let acceptor = authority.acceptor();
    let (address, cores) = support::wander(50_000, move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let (stream, early) = stream.accept_tls(&acceptor, Vec::new()).await.unwrap();
            stream.send_vec(early);
            stream
        }
    });
    let mut client = client(&authority.client_config(), address);
    let sent = pattern(3_000_000, 1);
    let mut back = vec![0; 10_000];
    for part in sent.chunks(10_000) {
        client.write_all(part).unwrap();
        client.read_exact(&mut back[..part.len()]).unwrap();
        assert!(back[..part.len()] == *part);
    }
    client.conn.send_close_notify();
    client.flush().unwrap();
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    cores.join().unwrap();
}

/// What comes of a client of ours at such a server: its answer, or why there is none.
fn connect(config: Arc<ServerConfig>, connector: Connector, host: &str) -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let connection = ServerConnection::new(config).unwrap();
        let mut server = StreamOwned::new(connection, listener.accept().unwrap().0);
        let mut asked = [0; 3];
        if server.read_exact(&mut asked).is_err() {
            return;
        }
        server.write_all(&asked).unwrap();
        assert_eq!(server.read(&mut asked).unwrap(), 0, "close_notify");
    });
    let (tell, told) = mpsc::channel();
    let host = host.to_owned();
    let cores = start(
        &[0],
        1,
        move |core: Core, _: Mailbox<()>, _: PostOffice<()>| async move {
            let address = Address::Tcp(address);
            let stream = Stream::connect(&core, &address, &TcpOptions::default()).await;
            let outcome = match stream.unwrap().connect_tls(&connector, &host).await {
                Err(error) => Err(error.to_string()),
                Ok(stream) => {
                    stream.write(b"abc");
                    assert_eq!(&*stream.recv().await.unwrap().unwrap(), b"abc");
                    assert!(stream.tls().unwrap().peer_certificate.is_some());
                    stream.close().await.unwrap();
                    Ok(())
                }
            };
            tell.send(outcome).unwrap();
        },
    )
    .unwrap();
    let outcome = told.recv_timeout(PATIENCE).unwrap();
    cores.join().unwrap();
    server.join().unwrap();
    outcome
}

#[test]
fn servers_are_verified_as_far_as_wished() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let check = |verify: Verify, ca: &Authority, host: &str, expected: Result<(), &str>| {
        let connector = Connector::new(&ConnectorPem {
            verify,
            ca: Some(ca.pem().as_bytes()),
            identity: None,
            alpn: b"test",
        });
        let config = authority.server_config("db.test");
        let outcome = connect(config, connector.unwrap(), host);
        match (&outcome, expected) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(part)) if error.contains(part) => {}
            _ => panic!("{verify:?} {host}: {outcome:?}, expected {expected:?}"),
        }
    };
    check(Verify::ChainAndName, &authority, "db.test", Ok(()));
    let other_name = Err("not valid for name");
    check(Verify::ChainAndName, &authority, "db.other", other_name);
    check(Verify::ChainAndName, &authority, "127.0.0.1", other_name);
    let unknown = Err("invalid peer certificate");
    check(Verify::ChainAndName, &stranger, "db.test", unknown);
    check(Verify::Chain, &authority, "db.other", Ok(()));
    check(Verify::Chain, &stranger, "db.test", unknown);
    check(Verify::Nothing, &stranger, "db.other", Ok(()));
}

/// Channel binding rests on it: somebody in between may show the server's certificate, but has not got its key.
#[test]
fn servers_prove_that_their_certificate_is_theirs() {
    let authority = Authority::new();
    let (certificate, _) = authority.issue("db.test");
    let (_, other_key) = authority.issue("db.test");
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(other_key.as_bytes()).unwrap();
    let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    let shown = Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, key)));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_protocol_versions(&[version]).unwrap();
        let config = builder
            .with_no_client_auth()
            .with_cert_resolver(shown.clone());
        for verify in [Verify::Nothing, Verify::Chain, Verify::ChainAndName] {
            let connector = Connector::new(&ConnectorPem {
                verify,
                ca: Some(authority.pem().as_bytes()),
                identity: None,
                alpn: b"test",
            });
            let config = Arc::new(config.clone());
            let outcome = connect(config, connector.unwrap(), "db.test");
            let error = outcome.unwrap_err();
            assert!(error.contains("BadSignature"), "{verify:?}: {error}");
        }
    }
}

#[test]
fn material_that_cannot_be_used_is_named() {
    let authority = Authority::new();
    let (certificate, key) = authority.issue("a");
    let (_, other_key) = authority.issue("b");
    let check = |certificate: &str, key: &str, expected: &str| {
        let invalid = Acceptor::new(&AcceptorPem {
            certificates: certificate.as_bytes(),
            private_key: key.as_bytes(),
            client_ca: None,
            alpn: b"test",
        });
        let text = invalid.unwrap_err().to_string();
        assert!(text.starts_with(expected), "{text}");
    };
    check("", &key, "certificate: no certificate found");
    check(&certificate, "", "private key: ");
    check(&certificate, &certificate, "private key: ");
    check(&certificate, &other_key, "certificate and private key: ");
}
