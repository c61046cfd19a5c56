//! The cryptography behind TLS: ring's, for every client of this process.

/// Installs the provider that clients of HTTPS find; to be called before one is built. Later calls change nothing.
pub(crate) fn install() {
    // An error says that there is one already: this one, or that of whoever embeds this library.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A client of HTTP to be built. One that is begun elsewhere panics where no provider has been installed yet.
pub(crate) fn client() -> reqwest::ClientBuilder {
    install();
    reqwest::Client::builder()
}
