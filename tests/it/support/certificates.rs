//! Owns authorities, and certificates that are as good or as bad as a test wants them.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// An authority, with its certificate in `NAME.pem`.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    path: PathBuf,
}

/// A certificate and its key, in PEM.
pub struct Issued {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// When a certificate holds.
#[derive(Clone, Copy)]
pub enum Valid {
    Now,
    UntilLongAgo,
    NotForLong,
}

impl Authority {
    pub fn new(directory: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let path = directory.join(format!("{name}.pem"));
        fs::write(&path, params.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(params, key);
        Self { issuer, path }
    }

    /// For a server at `host`.
    pub fn server(&self, name: &str, host: &str, valid: Valid) -> Issued {
        let params = CertificateParams::new([host.to_owned()]).unwrap();
        self.issue(params, name, ExtendedKeyUsagePurpose::ServerAuth, valid)
    }

    /// For the client that `name` is the common name of.
    pub fn client(&self, name: &str, valid: Valid) -> Issued {
        let params = CertificateParams::default();
        self.issue(params, name, ExtendedKeyUsagePurpose::ClientAuth, valid)
    }

    pub fn pem_path(&self) -> &Path {
        &self.path
    }

    fn issue(
        &self,
        mut params: CertificateParams,
        name: &str,
        purpose: ExtendedKeyUsagePurpose,
        valid: Valid,
    ) -> Issued {
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![purpose];
        (params.not_before, params.not_after) = match valid {
            Valid::Now => (date_time_ymd(2020, 1, 1), date_time_ymd(2100, 1, 1)),
            Valid::UntilLongAgo => (date_time_ymd(2019, 1, 1), date_time_ymd(2020, 1, 1)),
            Valid::NotForLong => (date_time_ymd(2090, 1, 1), date_time_ymd(2100, 1, 1)),
        };
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let directory = self.path.parent().unwrap();
        let issued = Issued {
            cert: directory.join(format!("{name}.cert.pem")),
            key: directory.join(format!("{name}.key.pem")),
        };
        fs::write(&issued.cert, certificate.pem()).unwrap();
        fs::write(&issued.key, key.serialize_pem()).unwrap();
        issued
    }
}
