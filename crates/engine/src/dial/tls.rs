//! TLS of the client: what it trusts, how it shows itself, and errors that say what failed.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::config::ClientTls;
use crate::tls::{Stamp, TlsError, certified_key, provider, read_roots};

/// A client's TLS settings, loaded. Made once per client, so that a missing or malformed file is an
/// error where the client is made; files that change later are loaded again before the next attempt.
#[derive(Debug)]
pub struct ClientTlsConfig {
    options: ClientTls,
    /// The system's roots; empty where `ca` or `verify: false` stands in for them.
    system_roots: Arc<RootCertStore>,
    loaded: Mutex<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    config: Arc<ClientConfig>,
    stamps: Vec<Stamp>,
}

impl ClientTlsConfig {
    /// Reads every file that `options` names, and the system's certificates unless `ca` replaces them.
    ///
    /// # Errors
    /// A file that cannot be read or holds no usable PEM, a key without its certificate, a key that
    /// does not belong to the certificate, a system without any CA certificate.
    pub fn new(options: &ClientTls) -> Result<Self, TlsError> {
        let system_roots =
            if options.verify && options.ca.is_none() { system_roots()? } else { RootCertStore::empty() };
        let system_roots = Arc::new(system_roots);
        let stamps = stamps(options);
        let config = build(options, &system_roots)?;
        Ok(Self { options: options.clone(), system_roots, loaded: Mutex::new(Loaded { config, stamps }) })
    }

    /// The settings to use now. When a file has changed and the new content is not usable (half
    /// written, key and certificate replaced one after the other), the earlier settings stay in force.
    pub(crate) fn current(&self) -> Arc<ClientConfig> {
        let stamps = stamps(&self.options);
        let mut loaded = self.loaded.lock();
        if stamps != loaded.stamps
            && let Ok(config) = build(&self.options, &self.system_roots)
        {
            *loaded = Loaded { config, stamps };
        }
        Arc::clone(&loaded.config)
    }
}

/// The name that the certificate must bear: a DNS name or an IP address.
pub(crate) fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(ServerName::IpAddress(address.into()));
    }
    // A trailing dot says "absolute" to the resolver; certificates never have it (RFC 6066 section 3).
    let name = host.strip_suffix('.').unwrap_or(host);
    ServerName::try_from(name.to_owned()).map_err(|_| format!("'{host}' is not a host name that TLS can check"))
}

/// What an error of a TLS stream means, in words; other I/O errors as they are.
pub(crate) fn describe(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error) => describe_tls(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => "the peer closed the connection".into(),
        None => error.to_string(),
    }
}

fn describe_tls(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(error) => describe_certificate(error),
        rustls::Error::InvalidMessage(_) => "the peer does not speak TLS".into(),
        rustls::Error::NoCertificatesPresented => "the peer presented no certificate".into(),
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::CertificateRequired => {
                "the peer requires a client certificate (options tls.cert and tls.key)".into()
            }
            AlertDescription::UnknownCA => "the peer does not know the issuer of our certificate".into(),
            AlertDescription::CertificateExpired => "the peer finds our certificate expired".into(),
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied => format!("the peer refused our certificate ({alert:?})"),
            AlertDescription::UnrecognisedName => "the peer has no certificate for this name".into(),
            AlertDescription::ProtocolVersion => "the peer speaks no TLS version from 1.2 on".into(),
            other => format!("the peer ended the TLS handshake ({other:?})"),
        },
        other => other.to_string(),
    }
}

fn describe_certificate(error: &CertificateError) -> String {
    let reason = match error {
        CertificateError::Expired => "it has expired".into(),
        CertificateError::ExpiredContext { time, not_after } => {
            format!("it expired {} ago", rough(time.as_secs().saturating_sub(not_after.as_secs())))
        }
        CertificateError::NotValidYet => "it is not valid yet".into(),
        CertificateError::NotValidYetContext { time, not_before } => {
            format!("it is valid only in {}", rough(not_before.as_secs().saturating_sub(time.as_secs())))
        }
        CertificateError::UnknownIssuer => "its issuer is unknown (option tls.ca)".into(),
        CertificateError::NotValidForName => "it is for another name".into(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let mut text = format!("it is not for '{}'", expected.to_str());
            for (index, name) in presented.iter().take(5).enumerate() {
                let _ = write!(text, "{}{name}", if index == 0 { " but for " } else { ", " });
            }
            text
        }
        CertificateError::Revoked => "it has been revoked".into(),
        CertificateError::BadSignature => "its signature is wrong".into(),
        other => format!("{other}"),
    };
    format!("the peer's certificate is refused: {reason}")
}

fn rough(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} seconds"),
        120..7_200 => format!("{} minutes", seconds / 60),
        7_200..172_800 => format!("{} hours", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn stamps(options: &ClientTls) -> Vec<Stamp> {
    [&options.ca, &options.cert, &options.key].into_iter().flatten().map(|path| Stamp::of(path)).collect()
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Old roots that do not parse are common in system stores and no reason to trust none.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let cause = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(TlsError(format!(
            "this system has no CA certificates{cause}: install them (Debian: ca-certificates) or set tls.ca"
        )));
    }
    Ok(roots)
}

fn build(options: &ClientTls, system_roots: &Arc<RootCertStore>) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError(format!("TLS cannot be set up: {error}")))?;
    let builder = if options.verify {
        let roots = match &options.ca {
            Some(path) => Arc::new(read_roots(path).map_err(|error| of("tls.ca", error))?),
            None => Arc::clone(system_roots),
        };
        builder.with_root_certificates(roots)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny(provider)))
    };
    let mut config = match (&options.cert, &options.key) {
        (Some(cert), Some(key)) => {
            let certified = certified_key(cert, key).map_err(|error| of("tls.cert and tls.key", error))?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
        (None, None) => builder.with_no_client_auth(),
        (Some(_), None) => return Err(TlsError("tls.cert needs tls.key beside it".into())),
        (None, Some(_)) => return Err(TlsError("tls.key needs tls.cert beside it".into())),
    };
    // WebSocket over HTTP/2 (RFC 8441) is not spoken here.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// An error with the files of `option`.
fn of(option: &str, TlsError(problem): TlsError) -> TlsError {
    TlsError(format!("{option}: {problem}"))
}

/// `verify: false`. Whoever answers is believed, so an attacker on the path reads and changes
/// everything: for tests against self-signed servers only.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
