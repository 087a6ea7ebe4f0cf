//! What logins need to know of a certificate: the channel it binds to, and whom it names.
//!
//! Certificates that come here were shown in a TLS handshake, a client's also verified there.

use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::spki::AlgorithmIdentifierOwned;
use x509_cert::Certificate;

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");

/// `tls-server-end-point` of a server's certificate in DER: its hash, by the hash function of its signature, or by
/// SHA-256 where that is MD5 or SHA-1.
///
/// `None` where none is defined (Ed25519), and for what is no certificate: then channels are not bound.
/// Source: <https://www.rfc-editor.org/rfc/rfc5929#section-4.1>
pub fn end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let parsed = Certificate::from_der(certificate).ok()?;
    Some(match hash_of(&parsed.signature_algorithm)? {
        Hash::Sha256 => Sha256::digest(certificate).to_vec(),
        Hash::Sha384 => Sha384::digest(certificate).to_vec(),
        Hash::Sha512 => Sha512::digest(certificate).to_vec(),
    })
}

enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

fn hash_of(algorithm: &AlgorithmIdentifierOwned) -> Option<Hash> {
    if algorithm.oid == RSASSA_PSS {
        return pss_hash(algorithm);
    }
    Some(match algorithm.oid.to_string().as_str() {
        // RSA, ECDSA and DSA with MD5, SHA-1 and SHA-256.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2"
        | "2.16.840.1.101.3.4.3.2" => Hash::Sha256,
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" | "2.16.840.1.101.3.4.3.3" => Hash::Sha384,
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" | "2.16.840.1.101.3.4.3.4" => Hash::Sha512,
        _ => return None,
    })
}

/// RSASSA-PSS names its hash function in the parameters: `[0] AlgorithmIdentifier`, SHA-1 if it is missing.
fn pss_hash(algorithm: &AlgorithmIdentifierOwned) -> Option<Hash> {
    let parameters = algorithm.parameters.as_ref()?.value();
    let Some((0xa0, rest)) = parameters.split_first().map(|(tag, rest)| (*tag, rest)) else {
        return Some(Hash::Sha256);
    };
    let (length, rest) = rest.split_first()?;
    let hash = AlgorithmIdentifierOwned::from_der(rest.get(..usize::from(*length))?).ok()?;
    match hash.oid.to_string().as_str() {
        "1.3.14.3.2.26" | "2.16.840.1.101.3.4.2.1" => Some(Hash::Sha256),
        "2.16.840.1.101.3.4.2.2" => Some(Hash::Sha384),
        "2.16.840.1.101.3.4.2.3" => Some(Hash::Sha512),
        _ => None,
    }
}

/// Does the certificate in DER name this identity: as the common name of its subject, or as a DNS name, mail address
/// or URI among its `subjectAltName`s? Names must be equal byte by byte.
pub fn names(certificate: &[u8], identity: &str) -> bool {
    let Ok(parsed) = Certificate::from_der(certificate) else {
        return false;
    };
    let subject = &parsed.tbs_certificate.subject;
    let mut attributes = subject.0.iter().flat_map(|name| name.0.iter());
    let is_common_name =
        attributes.any(|name| name.oid == COMMON_NAME && name.value.value() == identity.as_bytes());
    let is_alternative = || match parsed.tbs_certificate.get::<SubjectAltName>() {
        Ok(Some((_, SubjectAltName(names)))) => names.iter().any(|name| match name {
            GeneralName::DnsName(name)
            | GeneralName::Rfc822Name(name)
            | GeneralName::UniformResourceIdentifier(name) => name.as_str() == identity,
            _ => false,
        }),
        _ => false,
    };
    is_common_name || is_alternative()
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_cert::der::Encode;

    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn certificate(common_name: &str, names: &[SanType], key: &KeyPair) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.subject_alt_names = names.to_vec();
        params.self_signed(key).unwrap().der().to_vec()
    }

    #[test]
    fn the_channel_is_the_hash_that_signed_the_certificate() {
        let check = |algorithm, expected: fn(&[u8]) -> Vec<u8>| {
            let der = certificate("a", &[], &KeyPair::generate_for(algorithm).unwrap());
            assert_eq!(end_point(&der), Some(expected(&der)));
        };
        check(&rcgen::PKCS_ECDSA_P256_SHA256, |der| {
            Sha256::digest(der).to_vec()
        });
        check(&rcgen::PKCS_ECDSA_P384_SHA384, |der| {
            Sha384::digest(der).to_vec()
        });
        let der = certificate(
            "a",
            &[],
            &KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(),
        );
        assert_eq!(end_point(&der), None);
        assert_eq!(end_point(&der[1..]), None);
        assert_eq!(end_point(b""), None);
    }

    /// Parameters of RSASSA-PSS as OpenSSL writes them.
    #[test]
    fn the_hash_of_pss_is_in_its_parameters() {
        let check = |hash: &[u8], expected: Option<usize>| {
            let oid = [&[0x06, u8::try_from(hash.len()).unwrap()], hash].concat();
            let inner = [&[0x30, u8::try_from(oid.len()).unwrap()], &oid[..]].concat();
            let tagged = [&[0xa0, u8::try_from(inner.len()).unwrap()], &inner[..]].concat();
            let parameters = [&[0x30, u8::try_from(tagged.len()).unwrap()], &tagged[..]].concat();
            let pss = RSASSA_PSS.to_der().unwrap();
            let all = [&pss[..], &parameters].concat();
            let all = [&[0x30, u8::try_from(all.len()).unwrap()], &all[..]].concat();
            let algorithm = AlgorithmIdentifierOwned::from_der(&all).unwrap();
            let bits = hash_of(&algorithm).map(|hash| match hash {
                Hash::Sha256 => 256,
                Hash::Sha384 => 384,
                Hash::Sha512 => 512,
            });
            assert_eq!(bits, expected);
        };
        let sha2 = |last| [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, last];
        check(&sha2(1), Some(256));
        check(&sha2(2), Some(384));
        check(&sha2(3), Some(512));
        check(&[0x2b, 0x0e, 0x03, 0x02, 0x1a], Some(256));
        check(&sha2(8), None);
    }

    #[test]
    fn a_certificate_names_its_subject_and_its_alternatives() {
        let key = KeyPair::generate().unwrap();
        let names_of = [
            SanType::DnsName("db.example.com".try_into().unwrap()),
            SanType::Rfc822Name("alice@example.com".try_into().unwrap()),
            SanType::URI("spiffe://example.com/alice".try_into().unwrap()),
        ];
        let der = certificate("alice", &names_of, &key);
        for identity in [
            "alice",
            "db.example.com",
            "alice@example.com",
            "spiffe://example.com/alice",
        ] {
            assert!(names(&der, identity), "{identity}");
        }
        for identity in ["", "Alice", "alic", "alice ", "example.com", "bob"] {
            assert!(!names(&der, identity), "{identity}");
        }
        assert!(!names(&der[..der.len() - 1], "alice"));
    }
}
