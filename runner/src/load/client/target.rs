//! The way to a target: whether there can be as many streams, its addresses and headers, and the roots that TLS trusts.

use std::{net::ToSocketAddrs, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio_rustls::TlsConnector;
use url::Url;

use super::super::{Target, error::ClientError, stream::Route};

/// Descriptors that are left to the rest of the process.
const OTHER_FILES: usize = 64;

/// Whether there can be this number of streams.
pub(super) fn allowed(streams: usize) -> Result<(), ClientError> {
    let most = most_streams(streams);
    if streams == 0 || streams > most {
        return Err(ClientError::Streams { streams, most });
    }
    Ok(())
}

/// Streams that the limit of open files allows; it is raised for `wanted` as far as it may be.
fn most_streams(wanted: usize) -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the pointer is to a limit of ours.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return wanted;
    }
    let needed = libc::rlim_t::try_from(wanted + OTHER_FILES).unwrap_or(libc::rlim_t::MAX);
    if limit.rlim_cur < needed && limit.rlim_cur < limit.rlim_max {
        let raised = libc::rlimit {
            rlim_cur: needed.min(limit.rlim_max),
            ..limit
        };
        // SAFETY: as above.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
            limit = raised;
        }
    }
    usize::try_from(limit.rlim_cur)
        .unwrap_or(usize::MAX)
        .saturating_sub(OTHER_FILES)
}

/// The way to a target.
pub(super) fn route(target: &Target) -> Result<Route, ClientError> {
    let wrong = |reason: &str| ClientError::Url {
        url: target.url.clone(),
        reason: reason.to_owned(),
    };
    let url = Url::parse(&target.url).map_err(|error| wrong(&error.to_string()))?;
    let is_tls = match url.scheme() {
        "http" => false,
        "https" => true,
        _ => return Err(wrong("neither http nor https")),
    };
    let host = url.host_str().ok_or_else(|| wrong("no host"))?;
    let port = url
        .port_or_known_default()
        .ok_or_else(|| wrong("no port"))?;
    // An IPv6 address stands in brackets in a URL alone.
    let bare = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let addresses: Vec<_> = (bare.as_str(), port)
        .to_socket_addrs()
        .map_err(|source| ClientError::Resolve {
            host: bare.clone(),
            source,
        })?
        .collect();
    let tls = if is_tls {
        let name = ServerName::try_from(bare.clone()).map_err(|error| wrong(&error.to_string()))?;
        Some((TlsConnector::from(Arc::new(tls(target)?)), name))
    } else {
        None
    };
    let path = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let authority = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    let mut headers = HeaderMap::new();
    let value = |name: &str, value: &str| {
        HeaderValue::from_str(value).map_err(|_| ClientError::Header {
            name: name.to_owned(),
            reason: "its value has characters that cannot be sent".into(),
        })
    };
    headers.insert(header::HOST, value("host", &authority)?);
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(
        header::ACCEPT,
        HeaderValue::from_static("text/event-stream"),
    );
    for (name, text) in &target.headers {
        let parsed =
            HeaderName::from_bytes(name.as_bytes()).map_err(|error| ClientError::Header {
                name: name.clone(),
                reason: error.to_string(),
            })?;
        headers.insert(parsed, value(name, text)?);
    }
    Ok(Route {
        name: format!("{host}:{port}"),
        addresses,
        tls,
        path: path
            .parse::<Uri>()
            .map_err(|error| wrong(&error.to_string()))?,
        headers,
        rule: target.rule,
    })
}

/// The roots that TLS trusts: the target's own, or those of every client.
fn tls(target: &Target) -> Result<ClientConfig, ClientError> {
    let mut roots = RootCertStore::empty();
    match &target.roots {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate =
                    certificate.map_err(|error| ClientError::Roots(error.to_string()))?;
                roots
                    .add(certificate)
                    .map_err(|error| ClientError::Roots(error.to_string()))?;
            }
        }
        None => roots = crate::tls::roots(),
    }
    if roots.is_empty() {
        return Err(ClientError::Roots("none was found".into()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientError::Roots(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
