//! Certificates, keys and what is demanded of the peer's: read once, shared by all cores.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, Resumption};
use rustls::crypto::{ring, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme,
};

/// The material cannot be used; says which part, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(String);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Invalid {}

fn invalid(what: &str, why: impl fmt::Display) -> Invalid {
    Invalid(format!("{what}: {why}"))
}

/// What a TLS server shows and asks for. Texts are PEM.
#[derive(Clone, Copy, Debug)]
pub struct AcceptorPem<'a> {
    /// Our certificate, then those that lead to its CA.
    pub certificates: &'a [u8],
    /// Its private key: PKCS#8, PKCS#1 or SEC1.
    pub private_key: &'a [u8],
    /// CAs of client certificates. With them clients may show one, which must then be valid; without, none is asked
    /// for.
    pub client_ca: Option<&'a [u8]>,
    /// Protocol for ALPN. A client that offers others only is refused; one that offers none is not.
    pub alpn: &'a [u8],
}

/// Takes TLS clients. Cheap to clone; sessions are resumed by tickets that all clones can read.
#[derive(Clone, Debug)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    certificate: CertificateDer<'static>,
}

impl Acceptor {
    /// Errors: what does not parse, or does not fit together.
    pub fn new(pem: &AcceptorPem<'_>) -> Result<Self, Invalid> {
        let chain = certificates("certificate", pem.certificates)?;
        let key = private_key(pem.private_key)?;
        let certificate = chain[0].clone();
        let provider = provider();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| invalid("TLS", error))?;
        let builder = match pem.client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let roots = Arc::new(roots("client CA certificate", ca)?);
                // Whether one is required depends on the user, who is not known yet.
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| invalid("client CA certificate", error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| invalid("certificate and private key", error))?;
        config.alpn_protocols = vec![pem.alpn.to_vec()];
        // Tickets keep the session with the client: no memory here, and any core can resume.
        config.ticketer = ring::Ticketer::new().map_err(|error| invalid("TLS", error))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        Ok(Self {
            config: Arc::new(config),
            certificate,
        })
    }

    /// Our own certificate in DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }
}

/// What is demanded of a server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Nothing: whoever listens is taken for the server, and only those who merely listen on the way are kept out.
    Nothing,
    /// It is valid and leads to a CA.
    Chain,
    /// Also that it has the server's name, or IP address, among its `subjectAltName`s.
    ChainAndName,
}

/// What a TLS client shows and demands. Texts are PEM.
#[derive(Clone, Copy, Debug)]
pub struct ConnectorPem<'a> {
    /// What is demanded.
    pub verify: Verify,
    /// Trusted CAs; `None`: those of the system.
    pub ca: Option<&'a [u8]>,
    /// Our certificates and private key, for servers that ask for them.
    pub identity: Option<(&'a [u8], &'a [u8])>,
    /// Protocol for ALPN.
    pub alpn: &'a [u8],
}

/// Connects to TLS servers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connector {
    config: Arc<ClientConfig>,
}

impl Connector {
    /// Reads the system's CAs if it needs them: not for a core.
    ///
    /// Errors: what does not parse, or does not fit together; no CA to verify with.
    pub fn new(pem: &ConnectorPem<'_>) -> Result<Self, Invalid> {
        let provider = provider();
        let roots = match (pem.verify, pem.ca) {
            (Verify::Nothing, _) => RootCertStore::empty(),
            (_, Some(ca)) => roots("server CA certificate", ca)?,
            (_, None) => system_roots()?,
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| invalid("TLS", error))?;
        let builder = match pem.verify {
            Verify::ChainAndName => builder.with_root_certificates(roots),
            Verify::Nothing | Verify::Chain => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(WithoutName {
                    roots: (pem.verify == Verify::Chain).then_some(roots),
                    provider,
                })),
        };
        let mut config = match pem.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = certificates("client certificate", chain)?;
                builder
                    .with_client_auth_cert(chain, private_key(key)?)
                    .map_err(|error| invalid("client certificate and private key", error))?
            }
        };
        config.alpn_protocols = vec![pem.alpn.to_vec()];
        // Connections to servers are few and long; PostgreSQL gives no tickets anyway.
        config.resumption = Resumption::disabled();
        Ok(Self {
            config: Arc::new(config),
        })
    }

    pub(super) fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Invalid> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(invalid(what, "no certificate found")),
        Ok(found) => Ok(found),
        Err(error) => Err(invalid(what, error)),
    }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, Invalid> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| invalid("private key", error))
}

fn roots(what: &str, pem: &[u8]) -> Result<RootCertStore, Invalid> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(what, pem)? {
        roots
            .add(certificate)
            .map_err(|error| invalid(what, error))?;
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, Invalid> {
    let mut roots = RootCertStore::empty();
    // One of them that cannot be used is no reason to do without the others.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        let why = "the system has none, and none is configured";
        return Err(invalid("server CA certificate", why));
    }
    Ok(roots)
}

/// Takes servers without asking for their name.
#[derive(Debug)]
struct WithoutName {
    /// `None`: takes any certificate, if only the server proves that it is its own.
    roots: Option<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl WithoutName {
    /// Is it a certificate that rustls cannot read (X.509 version 1, as `openssl x509 -req` may make them), where any will
    /// do? To do without encryption would not be safer.
    fn takes_unread(&self, certificate: &CertificateDer<'_>) -> bool {
        self.roots.is_none() && ParsedCertificate::try_from(certificate).is_err()
    }
}

impl ServerCertVerifier for WithoutName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(roots) = &self.roots {
            verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(certificate)?,
                roots,
                intermediates,
                now,
                self.provider.signature_verification_algorithms.all,
            )?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.takes_unread(certificate) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.takes_unread(certificate) {
            return Ok(HandshakeSignatureValid::assertion());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
