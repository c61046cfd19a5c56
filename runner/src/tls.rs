//! TLS of every client of this process: its cryptography, ring's, and the certificates that are trusted. Those are the
//! machine's, and those that lie beside this program: in the image of a server, which need not have any, it trusts what
//! the image trusts that it came from.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use object_store::{
    Certificate, ClientOptions,
    client::{HttpClient, HttpConnector, ReqwestConnector},
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

/// The file of certificates beside a program that was copied into another image.
const BESIDE: &str = "ca-certificates.pem";

/// Installs the provider that clients of HTTPS find; to be called before one is built. Later calls change nothing.
pub(crate) fn install() {
    // An error says that there is one already: this one, or that of whoever embeds this library.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A client of HTTP to be built. One that is begun elsewhere panics where no provider has been installed yet.
pub(crate) fn client() -> reqwest::ClientBuilder {
    install();
    let own = brought().iter();
    let own = own.filter_map(|certificate| reqwest::Certificate::from_der(certificate).ok());
    reqwest::Client::builder().tls_certs_merge(own)
}

/// The certificates that are trusted.
pub(crate) fn roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots.add_parsable_certificates(brought().iter().cloned());
    roots
}

/// Makes the clients of object stores.
#[derive(Debug)]
pub(crate) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        install();
        let own = brought().iter();
        let own = own.filter_map(|certificate| Certificate::from_der(certificate).ok());
        let options = own.fold(options.clone(), ClientOptions::with_root_certificate);
        ReqwestConnector::default().connect(&options)
    }
}

/// Writes all that is trusted here beside a program, for wherever that is going to run.
///
/// # Errors
/// Where the file cannot be written.
pub(crate) fn bring_along(program: &Path) -> io::Result<()> {
    let native = rustls_native_certs::load_native_certs().certs;
    let known = native.into_iter().chain(brought().iter().cloned());
    fs::write(beside(program), pem(known.filter(is_root)))
}

/// The certificates that lie beside this program; none where it is where it was built for.
fn brought() -> &'static [CertificateDer<'static>] {
    static BROUGHT: OnceLock<Vec<CertificateDer<'static>>> = OnceLock::new();
    BROUGHT.get_or_init(|| {
        let text = std::env::current_exe().and_then(|program| fs::read(beside(&program)));
        let text = text.unwrap_or_default();
        let certificates = CertificateDer::pem_slice_iter(&text);
        certificates
            .filter_map(Result::ok)
            .filter(is_root)
            .collect()
    })
}

fn beside(program: &Path) -> PathBuf {
    program.with_file_name(BESIDE)
}

/// Whether a certificate can be trusted at all: a client refuses to be built with one that cannot.
fn is_root(certificate: &CertificateDer<'_>) -> bool {
    RootCertStore::empty()
        .add(certificate.clone().into_owned())
        .is_ok()
}

/// Certificates as PEM, each once.
fn pem(certificates: impl Iterator<Item = CertificateDer<'static>>) -> String {
    let mut bodies: Vec<String> = certificates
        .map(|certificate| STANDARD.encode(certificate))
        .collect();
    bodies.sort_unstable();
    bodies.dedup();
    let mut text = String::new();
    for body in bodies {
        text += "-----BEGIN CERTIFICATE-----\n";
        let (lines, rest) = body.as_bytes().as_chunks::<64>();
        for line in lines.iter().map(<[u8; 64]>::as_slice).chain([rest]) {
            if !line.is_empty() {
                text += &String::from_utf8_lossy(line);
                text.push('\n');
            }
        }
        text += "-----END CERTIFICATE-----\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_read_as_they_were_written() {
        let text = include_bytes!("load/fixtures/localhost.pem");
        let read = |text: &[u8]| -> Vec<CertificateDer<'static>> {
            let all = CertificateDer::pem_slice_iter(text);
            all.map(|one| one.unwrap()).collect()
        };
        let certificates = read(text);
        assert_eq!(certificates.len(), 1);
        let twice = certificates.iter().chain(&certificates).cloned();
        let written = pem(twice);
        assert_eq!(read(written.as_bytes()), certificates);
        assert!(written.lines().all(|line| line.len() <= 64));
        assert!(is_root(&certificates[0]) && !is_root(&CertificateDer::from(vec![1, 2, 3])));
    }
}
