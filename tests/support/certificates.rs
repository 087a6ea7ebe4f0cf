//! Certificates made for one run of the tests, as files.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, Issuer, KeyPair, SigningKey,
};

use super::process::Folder;

/// A folder of `NAME.crt` and `NAME.key`.
///
/// `authority` has issued `server` (for the host localhost, and no IP address), `renewed` (the same again) and the
/// client certificates `cert_user` and `other`, named by their common names. Nobody trusts `stranger`, who has issued
/// `forged`, in the name of cert_user.
pub(crate) struct Certificates {
    folder: Folder,
}

impl Certificates {
    /// Those of this test binary.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Certificates> = OnceLock::new();
        SHARED.get_or_init(Self::make)
    }

    fn make() -> Self {
        let certificates = Self {
            folder: Folder::new("certificates"),
        };
        let authority = certificates.authority("authority");
        for name in ["server", "renewed"] {
            certificates.issue(name, "localhost", &["localhost"], &authority);
        }
        for name in ["cert_user", "other"] {
            certificates.issue(name, name, &[], &authority);
        }
        let stranger = certificates.authority("stranger");
        certificates.issue("forged", "cert_user", &[], &stranger);
        certificates
    }

    /// Where a file is.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    /// Where a file is, as text.
    pub(crate) fn text(&self, file: &str) -> String {
        self.path(file).to_str().expect("UTF-8").to_owned()
    }

    fn authority(&self, name: &str) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("make a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("sign");
        write(&self.path(&format!("{name}.crt")), &issuer.pem());
        issuer
    }

    fn issue(
        &self,
        name: &str,
        common_name: &str,
        hosts: &[&str],
        issuer: &Issuer<'_, impl SigningKey>,
    ) {
        let key = KeyPair::generate().expect("make a key");
        let certificate = params(common_name, hosts)
            .signed_by(&key, issuer)
            .expect("sign");
        write(&self.path(&format!("{name}.crt")), &certificate.pem());
        write(&self.path(&format!("{name}.key")), &key.serialize_pem());
    }
}

fn params(common_name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(hosts).expect("names of hosts");
    let name = &mut params.distinguished_name;
    name.push(DnType::CommonName, common_name);
    params
}

/// libpq and PostgreSQL refuse keys that others can read.
fn write(path: &Path, pem: &str) {
    std::fs::write(path, pem).expect("write a certificate or key");
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).expect("it is ours");
}
