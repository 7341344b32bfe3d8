//! TLS: the files of `[broker.tls]`, read anew for every connection, since whoever renews a
//! certificate writes it there; and what a handshake that failed means for whoever must mend it.
//! Nothing here ever goes on without TLS.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use lapin::tcp::RustlsConnector;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, ClientConfig, InconsistentKeys, RootCertStore};

use super::{Failure, FailureKind};
use crate::sys;

/// Longest PEM file. A bundle of all public authorities has a quarter of a megabyte.
const PEM_MAX: usize = 4 * 1024 * 1024;
/// Names of a certificate that are told; it may have thousands.
const NAMES_MAX: usize = 5;

/// `[broker.tls]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM: the authorities that may have issued the broker's certificate; none: the system's.
    pub ca: Option<PathBuf>,
    /// Who this client is.
    pub identity: Option<Identity>,
    /// What the broker's certificate must be for; none: the host in the address.
    pub server_name: Option<String>,
}

/// A client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// PEM: the certificate, and behind it those between it and its authority.
    pub cert: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
}

/// A file of `[broker.tls]` that cannot be used. Says nothing of what stands in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The key of `[broker.tls]`: `ca`, `cert` or `key`.
    pub key: &'static str,
    /// What it says; empty for the system's roots.
    pub path: PathBuf,
    /// What is wrong.
    pub text: String,
    /// What to do.
    pub advice: Option<&'static str>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.as_os_str().is_empty() {
            return write!(f, "broker.tls.{}: {}", self.key, self.text);
        }
        write!(f, "broker.tls.{} {:?}: {}", self.key, self.path, self.text)
    }
}

/// One file on its way to what is made of it.
struct Pem<'a> {
    key: &'static str,
    path: &'a Path,
}

impl Pem<'_> {
    fn fault(&self, text: impl Into<String>, advice: Option<&'static str>) -> Fault {
        Fault {
            key: self.key,
            path: self.path.to_owned(),
            text: text.into(),
            advice,
        }
    }

    fn read(&self) -> Result<Vec<u8>, Fault> {
        sys::read_small(self.path, PEM_MAX).map_err(|error| {
            let advice = (error.kind() == io::ErrorKind::PermissionDenied)
                .then_some("the user that fantail runs as must be able to read it");
            self.fault(error.to_string(), advice)
        })
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Fault> {
        let text = self.read()?;
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let found = found.map_err(|error| self.fault(malformed(&error), None))?;
        if found.is_empty() {
            let advice = "PEM is text, with a line -----BEGIN CERTIFICATE-----; of DER, openssl \
                          x509 -inform der -in FILE makes it";
            return Err(self.fault("holds no certificate in PEM", Some(advice)));
        }
        Ok(found)
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, Fault> {
        let text = self.read()?;
        match PrivateKeyDer::from_pem_slice(&text) {
            Ok(key) => Ok(key),
            Err(_) if contains(&text, b"ENCRYPTED") => {
                let advice = "keys without a passphrase are taken alone: openssl pkey -in KEY -out \
                              PLAIN-KEY";
                Err(self.fault("the private key is encrypted", Some(advice)))
            }
            Err(pem::Error::NoItemsFound) => Err(self.fault("holds no private key in PEM", None)),
            Err(error) => Err(self.fault(malformed(&error), None)),
        }
    }
}

/// The library's words would quote the line, which may be one of a key.
fn malformed(error: &pem::Error) -> String {
    let what = match error {
        pem::Error::MissingSectionEnd { .. } => "a section without its END line",
        pem::Error::IllegalSectionStart { .. } => "a BEGIN line that is not whole",
        pem::Error::Base64Decode(_) => "a section that is not base64",
        _ => "a section that cannot be read",
    };
    format!("malformed PEM: {what}")
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// What is wrong with the files now. Reads them.
#[must_use]
pub fn fault(tls: &Tls) -> Option<Fault> {
    client_config(tls).err()
}

/// Whether certificates can be issued for it: a host name or an IP address.
#[must_use]
pub fn is_server_name(name: &str) -> bool {
    ServerName::try_from(name).is_ok()
}

/// Reads the files, within `limit`: they may lie on a network mount.
pub(super) async fn connector(tls: &Tls, limit: Duration) -> Result<RustlsConnector, Failure> {
    let reading = {
        let tls = tls.clone();
        tokio::task::spawn_blocking(move || client_config(&tls))
    };
    let (text, advice) = match tokio::time::timeout(limit, reading).await {
        Ok(Ok(Ok(config))) => return Ok(config.into()),
        Ok(Ok(Err(fault))) => (fault.to_string(), fault.advice),
        Ok(Err(_)) => ("broker.tls: reading its files failed".to_owned(), None),
        Err(_) => (
            format!("broker.tls: its files were not read within {limit:?}"),
            None,
        ),
    };
    Err(Failure::new(FailureKind::Files, text).advise(advice))
}

fn client_config(tls: &Tls) -> Result<ClientConfig, Fault> {
    let ca = Pem {
        key: "ca",
        path: tls.ca.as_deref().unwrap_or(Path::new("")),
    };
    let roots = if tls.ca.is_some() {
        own_roots(&ca)?
    } else {
        system_roots(&ca)?
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| ca.fault(error.to_string(), None))?
        .with_root_certificates(roots);
    let Some(identity) = &tls.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let cert = Pem {
        key: "cert",
        path: &identity.cert,
    };
    let key = Pem {
        key: "key",
        path: &identity.key,
    };
    let chain = cert.certificates()?;
    let private = key.private_key()?;
    // Apart from the certificate, so that it is clear which of the two files is not good.
    if let Err(error) = provider.key_provider.load_private_key(private.clone_key()) {
        return Err(key.fault(format!("not a key that can be used: {error}"), None));
    }
    builder
        .with_client_auth_cert(chain, private)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                let text = format!(
                    "not the key of the first certificate in {:?}",
                    identity.cert
                );
                let advice = "the client's own certificate comes first in `cert`, those of \
                              authorities behind it";
                key.fault(text, Some(advice))
            }
            error => cert.fault(format!("cannot be used: {error}"), None),
        })
}

fn own_roots(ca: &Pem<'_>) -> Result<RootCertStore, Fault> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in ca.certificates()?.into_iter().enumerate() {
        roots.add(certificate).map_err(|error| {
            let number = index + 1;
            ca.fault(
                format!("certificate {number} in it cannot be used: {error}"),
                None,
            )
        })?;
    }
    Ok(roots)
}

/// Bundles of public authorities hold certificates that cannot be read, as a rule.
fn system_roots(ca: &Pem<'_>) -> Result<RootCertStore, Fault> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        let advice = "install ca-certificates, or set broker.tls.ca to the broker's authority";
        return Err(ca.fault("this system has no root certificates", Some(advice)));
    }
    Ok(roots)
}

/// What an error of a TLS connection means; nothing if it is another one. A client certificate that
/// the broker refuses shows, with TLS 1.3, only behind the handshake.
pub(super) fn failure(error: &io::Error) -> Option<Failure> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let (kind, text, advice) = match error {
        rustls::Error::InvalidCertificate(error) => {
            let (text, advice) = of_certificate(error);
            (FailureKind::Other, text, advice)
        }
        rustls::Error::AlertReceived(alert) => of_alert(*alert),
        rustls::Error::InvalidMessage(_) => (
            FailureKind::Other,
            format!("what answers does not speak TLS ({error})"),
            Some(
                "amqps:// is for the broker's TLS port, 5671 by default; plain AMQP is amqp:// and \
                 5672",
            ),
        ),
        rustls::Error::PeerIncompatible(_) => (
            FailureKind::Other,
            error.to_string(),
            Some("TLS 1.2 or 1.3 is needed at the broker, with a cipher of today"),
        ),
        _ => (FailureKind::Other, error.to_string(), None),
    };
    Some(Failure::new(kind, format!("TLS: {text}")).advise(advice))
}

fn of_certificate(error: &CertificateError) -> (String, Option<&'static str>) {
    const CLOCK: &str = "renew it at the broker, unless this host's clock is wrong";
    match error {
        CertificateError::Expired => (
            "the broker's certificate has expired".to_owned(),
            Some(CLOCK),
        ),
        CertificateError::ExpiredContext { time, not_after } => (
            format!(
                "the broker's certificate has expired at {}; here it is {}",
                shown(*not_after),
                shown(*time)
            ),
            Some(CLOCK),
        ),
        CertificateError::NotValidYet => (
            "the broker's certificate is not valid yet".to_owned(),
            Some(CLOCK),
        ),
        CertificateError::NotValidYetContext { time, not_before } => (
            format!(
                "the broker's certificate is not valid before {}; here it is {}",
                shown(*not_before),
                shown(*time)
            ),
            Some(CLOCK),
        ),
        CertificateError::UnknownIssuer => (
            "the broker's certificate is of no authority that is known here".to_owned(),
            Some(
                "set broker.tls.ca to the PEM of the authority that issued it; an authority \
                 between the two belongs into the broker's own certificate file",
            ),
        ),
        CertificateError::NotValidForName => (
            "the broker's certificate is for another name".to_owned(),
            Some(OTHER_NAME),
        ),
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => (
            format!(
                "the broker's certificate is for {}, not for {}",
                names(presented),
                expected.to_str()
            ),
            Some(OTHER_NAME),
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => (
            "the broker's certificate is not one for servers".to_owned(),
            Some("its extended key usage must hold serverAuth"),
        ),
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => (
            "the broker's certificate is that of an authority".to_owned(),
            Some("give the broker a certificate of its own, issued by that authority"),
        ),
        error => (format!("the broker's certificate is bad: {error}"), None),
    }
}

const OTHER_NAME: &str = "write that name in the address, or set broker.tls.server_name to it; a \
                          common name alone counts for nothing";

/// `DnsName("broker.example")` and `IpAddress(127.0.0.1)` in the library's words.
fn names(presented: &[String]) -> String {
    if presented.is_empty() {
        return "no name at all (it has no subjectAltName)".to_owned();
    }
    let bare = |name: &String| {
        let inner = name.split_once('(').map_or(&**name, |(_, inner)| inner);
        inner.trim_end_matches(')').trim_matches('"').to_owned()
    };
    let mut told: Vec<String> = presented.iter().take(NAMES_MAX).map(bare).collect();
    if presented.len() > NAMES_MAX {
        told.push(format!("{} more", presented.len() - NAMES_MAX));
    }
    told.join(", ")
}

fn shown(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    match Timestamp::from_second(seconds) {
        Ok(time) => time.to_string(),
        Err(_) => format!("{seconds} s after 1970"),
    }
}

/// What the broker thinks of this client.
fn of_alert(alert: AlertDescription) -> (FailureKind, String, Option<&'static str>) {
    const RENEW: &str = "renew the certificate in broker.tls.cert; it is read at the next attempt";
    let certificate =
        |text: &str, advice| (FailureKind::Certificate, text.to_owned(), Some(advice));
    match alert {
        AlertDescription::CertificateRequired => certificate(
            "the broker wants a client certificate",
            "set broker.tls.cert and broker.tls.key",
        ),
        AlertDescription::CertificateExpired => certificate(
            "the broker says that the client certificate has expired",
            RENEW,
        ),
        AlertDescription::CertificateRevoked => certificate(
            "the broker says that the client certificate was revoked",
            RENEW,
        ),
        AlertDescription::UnknownCA => certificate(
            "the broker does not know the authority of the client certificate",
            "that authority belongs into the broker's ssl_options.cacertfile, those between into \
             broker.tls.cert",
        ),
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied => (
            FailureKind::Certificate,
            format!("the broker refuses the client certificate ({alert:?})"),
            Some("the broker's log says why"),
        ),
        // What TLS 1.2 says to a client without a certificate too (RFC 5246, section 7.4.6).
        AlertDescription::HandshakeFailure => (
            FailureKind::Other,
            "the broker gives the handshake up (HandshakeFailure)".to_owned(),
            Some("it wants a client certificate, or no cipher is common; the broker's log says"),
        ),
        AlertDescription::UnrecognisedName => (
            FailureKind::Other,
            "the broker serves no such name (UnrecognisedName)".to_owned(),
            Some(OTHER_NAME),
        ),
        alert => (
            FailureKind::Other,
            format!("the broker ends the connection ({alert:?})"),
            Some("the broker's log says why"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    /// Files with these contents, and a word for each that is told of it.
    fn told(cert: &[u8], key: &[u8]) -> String {
        let directory = tempfile::tempdir().expect("a directory");
        let (cert_path, key_path) = (directory.path().join("c"), directory.path().join("k"));
        std::fs::write(&cert_path, cert).expect("written");
        std::fs::write(&key_path, key).expect("written");
        let tls = Tls {
            ca: Some(cert_path.clone()),
            identity: Some(Identity {
                cert: cert_path,
                key: key_path,
            }),
            server_name: None,
        };
        fault(&tls).map_or(String::new(), |fault| fault.to_string())
    }

    fn made() -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["a.example".to_owned()]).expect("parameters");
        let certificate = params.self_signed(&key).expect("signed");
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn files_that_cannot_be_used_are_named_and_nothing_of_them_is_shown() {
        let ((cert, key), (other, _)) = (made(), made());
        assert_eq!(told(cert.as_bytes(), key.as_bytes()), "");
        let (der, in_one_line) = (b"\x30\x82\x01", cert.replace('\n', ""));
        let cut = &cert[..cert.len() / 2];
        let no_base64 = cert.replace("MII", "M\u{e4}I");
        let encrypted = key.replace("PRIVATE", "ENCRYPTED PRIVATE");
        let not_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let no_key = not_der.replace("CERTIFICATE", "PRIVATE KEY");
        for (cert, key, which, text) in [
            (&der[..], &*key, "ca", "holds no certificate in PEM"),
            (b"", &*key, "ca", "holds no certificate in PEM"),
            (key.as_bytes(), &*key, "ca", "holds no certificate in PEM"),
            (cut.as_bytes(), &*key, "ca", "without its END line"),
            (in_one_line.as_bytes(), &*key, "ca", "malformed PEM"),
            (no_base64.as_bytes(), &*key, "ca", "malformed PEM"),
            (not_der.as_bytes(), &*key, "ca", "certificate 1 in it"),
            (cert.as_bytes(), &*cert, "key", "holds no private key"),
            (cert.as_bytes(), &*encrypted, "key", "is encrypted"),
            (
                cert.as_bytes(),
                &*no_key,
                "key",
                "not a key that can be used",
            ),
            (
                other.as_bytes(),
                &*key,
                "key",
                "not the key of the first certificate",
            ),
        ] {
            let told = told(cert, key.as_bytes());
            assert!(told.starts_with(&format!("broker.tls.{which} ")), "{told}");
            assert!(told.contains(text), "{told}");
            let shown = key
                .lines()
                .chain(other.lines())
                .any(|line| told.contains(line));
            assert!(!shown, "{told}");
        }
    }

    #[test]
    fn names_of_a_certificate_are_told_bare_and_few() {
        let bare = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            super::names(&names)
        };
        assert_eq!(
            bare(&["DnsName(\"*.example\")", "IpAddress(127.0.0.1)"]),
            "*.example, 127.0.0.1"
        );
        assert!(bare(&[]).starts_with("no name at all"));
        assert!(bare(&["x"; 1000]).ends_with("x, 995 more"));
    }
}
