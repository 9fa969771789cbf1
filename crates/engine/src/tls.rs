//! TLS for servers: certificates by name, client certificates, reload of changed files.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use tokio_rustls::TlsAcceptor;

use crate::config::ServerTls;
use crate::listen::cause;
use crate::stream::Stream;

/// Why TLS cannot be set up with these options and files. Names the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(pub(crate) String);

/// What [`ServerTlsAcceptor::refresh`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refreshed {
    /// New connections get what this file holds now.
    Reloaded(PathBuf),
    /// The changed file cannot be used: what was loaded before stays. Told once per change.
    Kept(TlsError),
}

/// The TLS side of a server's listeners. Cheap to share between threads.
#[derive(Debug)]
pub struct ServerTlsAcceptor {
    current: RwLock<Arc<rustls::ServerConfig>>,
    certificates: Arc<Certificates>,
    client_ca: Option<Mutex<Watched<PathBuf>>>,
}

impl ServerTlsAcceptor {
    /// Loads and checks every file. TLS 1.2 and 1.3, ALPN `http/1.1`.
    ///
    /// # Errors
    /// [`TlsError`]: a file that is missing, unreadable, no PEM or does not hold what it should, a key that does
    /// not belong to its certificate, a name of `sni` that is no DNS name or occurs twice.
    pub fn new(options: &ServerTls) -> Result<Self, TlsError> {
        let mut named: Vec<Entry> = Vec::with_capacity(options.sni.len());
        for (name, cert, key) in &options.sni {
            let name = name.to_ascii_lowercase();
            let plain = name.strip_prefix("*.").unwrap_or(&name);
            if DnsName::try_from(plain).is_err() {
                return Err(TlsError(format!("\"{name}\" is no server name such as example.org or *.example.org")));
            }
            if named.iter().any(|other| other.name == name) {
                return Err(TlsError(format!("the server name \"{name}\" has two certificates")));
            }
            named.push(Entry::load(name, cert, key)?);
        }
        let fallback = Entry::load(String::new(), &options.cert, &options.key)?;
        let certificates = Arc::new(Certificates { fallback, named });
        let current = RwLock::new(server_config(&certificates, options.client_ca.as_deref())?);
        let client_ca = options
            .client_ca
            .as_ref()
            .map(|path| Mutex::new(Watched { seen: vec![Stamp::of(path)], value: path.clone() }));
        Ok(Self { current, certificates, client_ca })
    }

    /// The handshake. Put a time limit around it.
    ///
    /// # Errors
    /// The peer speaks no TLS, shares no version or cipher with us, shows no certificate where it
    /// must, or has gone; or `stream` is not plain TCP.
    pub async fn accept(&self, stream: Stream) -> io::Result<Stream> {
        let Stream::Tcp(socket) = stream else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "TLS runs over TCP only"));
        };
        let acceptor = TlsAcceptor::from(self.current.read().clone());
        // Boxed: the handshake's state is large and this future is part of the connection's.
        let stream = Box::pin(acceptor.accept(*socket)).await?;
        Ok(Stream::Tls(Box::new(stream.into())))
    }

    /// Looks for changed files (time, size or identity) and loads them; connections that are open
    /// stay as they are. Call it every few seconds from one thread: it costs one `stat` a file.
    pub fn refresh(&self) -> Vec<Refreshed> {
        let mut found = Vec::new();
        for entry in self.certificates.named.iter().chain([&self.certificates.fallback]) {
            found.extend(entry.refresh());
        }
        if let Some(watched) = &self.client_ca {
            let mut watched = watched.lock();
            let stamp = vec![Stamp::of(&watched.value)];
            if watched.seen != stamp {
                watched.seen = stamp;
                found.push(match server_config(&self.certificates, Some(&watched.value)) {
                    Ok(config) => {
                        *self.current.write() = config;
                        Refreshed::Reloaded(watched.value.clone())
                    }
                    Err(error) => Refreshed::Kept(error),
                });
            }
        }
        found
    }
}

/// Reads the certificates of a PEM file, at least one.
///
/// # Errors
/// [`TlsError`] that names the file.
pub fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(path)?;
    let certificates: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&text).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(TlsError(format!("no certificate in the file {} (PEM is expected)", path.display()))),
        Err(error) => Err(TlsError(format!("the file {} is no valid PEM: {error}", path.display()))),
    }
}

/// Reads the first private key of a PEM file: PKCS#8, PKCS#1 or SEC1.
///
/// # Errors
/// [`TlsError`] that names the file; keys protected by a passphrase are not read.
pub fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = read(path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
        TlsError(match error {
            pem::Error::NoItemsFound if text.windows(9).any(|word| word == b"ENCRYPTED") => {
                format!("the private key in the file {} is protected by a passphrase", path.display())
            }
            pem::Error::NoItemsFound => format!("no private key in the file {} (PEM is expected)", path.display()),
            error => format!("the file {} is no valid PEM: {error}", path.display()),
        })
    })
}

/// What a file looked like; all zero when it was not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Stamp {
    identity: (u64, u64),
    modified: (i64, i64),
    size: u64,
}

impl Stamp {
    pub(crate) fn of(path: &Path) -> Self {
        fs::metadata(path).map_or_else(
            |_| Self::default(),
            |file| Self {
                identity: (file.dev(), file.ino()),
                modified: (file.mtime(), file.mtime_nsec()),
                size: file.size(),
            },
        )
    }
}

/// Files as they were when last read, whether they could be used or not.
#[derive(Debug)]
struct Watched<T> {
    seen: Vec<Stamp>,
    value: T,
}

/// One certificate with its key.
struct Entry {
    /// Lower case; empty for the one that fits any name.
    name: String,
    files: Mutex<Watched<(PathBuf, PathBuf)>>,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Entry {
    fn load(name: String, cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let seen = vec![Stamp::of(cert), Stamp::of(key)];
        let current = RwLock::new(certified_key(cert, key)?);
        Ok(Self { name, files: Mutex::new(Watched { seen, value: (cert.into(), key.into()) }), current })
    }

    fn refresh(&self) -> Option<Refreshed> {
        let mut files = self.files.lock();
        let (cert, key) = &files.value;
        let seen = vec![Stamp::of(cert), Stamp::of(key)];
        if seen == files.seen {
            return None;
        }
        let refreshed = match certified_key(cert, key) {
            Ok(loaded) => {
                *self.current.write() = loaded;
                Refreshed::Reloaded(cert.clone())
            }
            Err(error) => Refreshed::Kept(error),
        };
        files.seen = seen;
        Some(refreshed)
    }

    /// An exact name, or a wildcard in the place of just one label.
    fn fits(&self, name: &str) -> bool {
        match self.name.strip_prefix("*.") {
            Some(parent) => name.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
            None => self.name == name,
        }
    }
}

/// The private key stays out of sight.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("name", &self.name).field("files", &self.files).finish_non_exhaustive()
    }
}

/// Chooses a certificate by the name that the client asks for: the exact one, else a wildcard, else
/// the fallback.
#[derive(Debug)]
struct Certificates {
    fallback: Entry,
    named: Vec<Entry>,
}

impl Certificates {
    fn entry(&self, name: Option<&str>) -> &Entry {
        let Some(name) = name.map(str::to_ascii_lowercase) else { return &self.fallback };
        let exact = self.named.iter().find(|entry| entry.name == name);
        exact.or_else(|| self.named.iter().find(|entry| entry.fits(&name))).unwrap_or(&self.fallback)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.entry(hello.server_name()).current.read().clone())
    }
}

fn server_config(
    certificates: &Arc<Certificates>,
    client_ca: Option<&Path>,
) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let provider = provider();
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError(format!("TLS cannot be set up: {error}")))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(read_roots(path)?), provider)
                .build()
                .map_err(|error| TlsError(format!("the file {} cannot be used: {error}", path.display())))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(certificates.clone());
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if client_ca.is_none() {
        // A crowd that comes back resumes without a signature each, and without memory here. With
        // client certificates a ticket would outlive a change of the CA file.
        config.ticketer =
            ring::Ticketer::new().map_err(|error| TlsError(format!("TLS tickets cannot be set up: {error}")))?;
        config.send_tls13_tickets = 1;
    }
    Ok(Arc::new(config))
}

/// Reads the CA certificates of a PEM file.
pub(crate) fn read_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots.add(certificate).map_err(|error| {
            TlsError(format!("a certificate in the file {} cannot be used: {error}", path.display()))
        })?;
    }
    Ok(roots)
}

/// Reads a certificate with its chain and the key that belongs to it.
pub(crate) fn certified_key(cert: &Path, key: &Path) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = read_certificates(cert)?;
    let private_key = read_key(key)?;
    match CertifiedKey::from_der(chain, private_key, &provider()) {
        Ok(certified) => Ok(Arc::new(certified)),
        Err(rustls::Error::InconsistentKeys(_)) => Err(TlsError(format!(
            "the private key in {} does not belong to the certificate in {}",
            key.display(),
            cert.display()
        ))),
        Err(rustls::Error::InvalidCertificate(error)) => {
            Err(TlsError(format!("the certificate in {} cannot be used: {error}", cert.display())))
        }
        Err(error) => Err(TlsError(format!("the private key in {} cannot be used: {error}", key.display()))),
    }
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| TlsError(format!("cannot read the file {}: {}", path.display(), cause(&error))))
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::pki_types::ServerName;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_rustls::TlsConnector;

    use super::*;

    /// A CA and the files made with it, gone with their guard.
    struct Ca {
        issuer: CertifiedIssuer<'static, KeyPair>,
        directory: PathBuf,
    }

    impl Ca {
        fn new(test: &str) -> Self {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
            let directory = std::env::temp_dir().join(format!("lifeline-tls-{test}-{}", std::process::id()));
            fs::create_dir_all(&directory).unwrap();
            let ca = Self { issuer, directory };
            ca.write("ca.pem", &ca.issuer.pem());
            ca
        }

        /// Makes `<file>.pem` and `<file>.key`.
        fn issue(&self, file: &str, name: &str) {
            let key = KeyPair::generate().unwrap();
            let certificate =
                CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
            self.write(&format!("{file}.pem"), &certificate.pem());
            self.write(&format!("{file}.key"), &key.serialize_pem());
        }

        /// A new file each time, moved into place as certificate tools do.
        fn write(&self, file: &str, text: &str) {
            fs::write(self.path("new"), text).unwrap();
            fs::rename(self.path("new"), self.path(file)).unwrap();
        }

        fn path(&self, file: &str) -> PathBuf {
            self.directory.join(file)
        }

        fn options(&self, file: &str) -> ServerTls {
            ServerTls {
                cert: self.path(&format!("{file}.pem")),
                key: self.path(&format!("{file}.key")),
                ..ServerTls::default()
            }
        }

        fn client(&self, identity: Option<&str>) -> rustls::ClientConfig {
            let mut roots = RootCertStore::empty();
            roots.add(self.issuer.der().clone()).unwrap();
            let builder = rustls::ClientConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots);
            match identity {
                None => builder.with_no_client_auth(),
                Some(file) => builder
                    .with_client_auth_cert(
                        read_certificates(&self.path(&format!("{file}.pem"))).unwrap(),
                        read_key(&self.path(&format!("{file}.key"))).unwrap(),
                    )
                    .unwrap(),
            }
        }
    }

    impl Drop for Ca {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }

    /// Connects as `name`, sends one byte there and back, and returns the server's certificate.
    async fn connect(
        server: &ServerTlsAcceptor,
        client: rustls::ClientConfig,
        name: &str,
    ) -> Result<CertificateDer<'static>, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = async {
            let mut stream = server
                .accept(Stream::Tcp(listener.accept().await.unwrap().0.into()))
                .await
                .map_err(|e| e.to_string())?;
            assert!(stream.is_tls());
            let byte = stream.read_u8().await.map_err(|e| e.to_string())?;
            stream.write_u8(byte).await.map_err(|e| e.to_string())?;
            stream.flush().await.map_err(|e| e.to_string())
        };
        let ask = async {
            let socket = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from(name.to_owned()).unwrap();
            let mut stream =
                TlsConnector::from(Arc::new(client)).connect(name, socket).await.map_err(|e| e.to_string())?;
            stream.write_u8(7).await.map_err(|e| e.to_string())?;
            assert_eq!(stream.read_u8().await.map_err(|e| e.to_string())?, 7);
            Ok(stream.get_ref().1.peer_certificates().unwrap()[0].clone())
        };
        let (near, far) = tokio::join!(serve, ask);
        near.and(far)
    }

    #[tokio::test]
    async fn the_certificate_follows_the_name() {
        let ca = Ca::new("sni");
        for (file, name) in [("any", "any.test"), ("one", "one.test"), ("wild", "*.wild.test"), ("up", "a.wild.test")] {
            ca.issue(file, name);
        }
        let sni = |name: &str, file: &str| (name.to_owned(), ca.options(file).cert, ca.options(file).key);
        let mut options = ca.options("any");
        options.sni = vec![sni("One.test", "one"), sni("*.wild.test", "wild"), sni("a.wild.test", "up")];
        let server = ServerTlsAcceptor::new(&options).unwrap();
        for (name, file) in [
            ("any.test", "any"),
            ("one.test", "one"),
            ("ONE.test", "one"),
            ("b.wild.test", "wild"),
            ("a.wild.test", "up"),
        ] {
            let shown = connect(&server, ca.client(None), name).await.unwrap();
            assert_eq!(shown, read_certificates(&ca.path(&format!("{file}.pem"))).unwrap()[0], "{name}");
        }
        // Two labels under the wildcard, its parent, another name, none: the fallback.
        for name in [Some("c.b.wild.test"), Some("wild.test"), Some(".wild.test"), Some("two.test"), None] {
            assert_eq!(server.certificates.entry(name).name, "", "{name:?}");
        }
    }

    #[tokio::test]
    async fn old_versions_work_and_other_protocols_do_not() {
        let ca = Ca::new("versions");
        ca.issue("any", "any.test");
        let server = ServerTlsAcceptor::new(&ca.options("any")).unwrap();
        let mut client = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates({
                let mut roots = RootCertStore::empty();
                roots.add(ca.issuer.der().clone()).unwrap();
                roots
            })
            .with_no_client_auth();
        connect(&server, client.clone(), "any.test").await.unwrap();
        client.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        connect(&server, client.clone(), "any.test").await.unwrap();
        client.alpn_protocols = vec![b"h2".to_vec()];
        assert!(connect(&server, client, "any.test").await.is_err());
    }

    #[tokio::test]
    async fn clients_must_show_a_certificate_of_the_ca() {
        let (ca, other) = (Ca::new("mtls"), Ca::new("mtls-other"));
        ca.issue("server", "any.test");
        ca.issue("client", "client.test");
        other.issue("client", "client.test");
        let mut options = ca.options("server");
        options.client_ca = Some(ca.path("ca.pem"));
        let server = ServerTlsAcceptor::new(&options).unwrap();
        connect(&server, ca.client(Some("client")), "any.test").await.unwrap();
        assert!(connect(&server, ca.client(None), "any.test").await.is_err());
        let mut stranger = ca.client(None);
        stranger.client_auth_cert_resolver = other.client(Some("client")).client_auth_cert_resolver.clone();
        assert!(connect(&server, stranger.clone(), "any.test").await.is_err());

        ca.write("ca.pem", &other.issuer.pem());
        assert_eq!(server.refresh(), [Refreshed::Reloaded(ca.path("ca.pem"))]);
        connect(&server, stranger, "any.test").await.unwrap();
        assert!(connect(&server, ca.client(Some("client")), "any.test").await.is_err());
    }

    #[tokio::test]
    async fn changed_files_are_loaded_and_broken_ones_are_not() {
        let ca = Ca::new("reload");
        ca.issue("any", "any.test");
        let server = ServerTlsAcceptor::new(&ca.options("any")).unwrap();
        assert_eq!(server.refresh(), []);
        let before = connect(&server, ca.client(None), "any.test").await.unwrap();

        // The certificate comes before its key: not usable yet.
        let key = fs::read_to_string(ca.path("any.key")).unwrap();
        ca.issue("any", "any.test");
        let new_key = fs::read_to_string(ca.path("any.key")).unwrap();
        ca.write("any.key", &key);
        let [Refreshed::Kept(error)] = &server.refresh()[..] else { panic!("loaded") };
        assert!(error.to_string().contains("any.key does not belong to the certificate in "), "{error}");
        assert_eq!(server.refresh(), []);
        assert_eq!(connect(&server, ca.client(None), "any.test").await.unwrap(), before);

        ca.write("any.key", &new_key);
        assert_eq!(server.refresh(), [Refreshed::Reloaded(ca.path("any.pem"))]);
        assert_eq!(server.refresh(), []);
        let after = connect(&server, ca.client(None), "any.test").await.unwrap();
        assert_ne!(after, before);

        fs::remove_file(ca.path("any.pem")).unwrap();
        assert!(matches!(&server.refresh()[..], [Refreshed::Kept(_)]));
        assert_eq!(server.refresh(), []);
        assert_eq!(connect(&server, ca.client(None), "any.test").await.unwrap(), after);
    }

    #[test]
    fn what_cannot_work_is_told_at_start() {
        let ca = Ca::new("errors");
        ca.issue("a", "a.test");
        ca.issue("b", "b.test");
        ca.write("empty.pem", "");
        ca.write("text.key", "-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----\n");
        ca.write("locked.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
        ca.write("bad.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        let a = ca.options("a");
        let with = |cert: &str, key: &str| ServerTls { cert: ca.path(cert), key: ca.path(key), ..ServerTls::default() };
        let sni = |names: &[&str]| ServerTls {
            sni: names.iter().map(|name| ((*name).to_owned(), a.cert.clone(), a.key.clone())).collect(),
            ..a.clone()
        };
        let client_ca = |file: &str| ServerTls { client_ca: Some(ca.path(file)), ..a.clone() };
        for (options, expected) in [
            (with("none.pem", "a.key"), "none.pem: No such file or directory"),
            (with("a.pem", "none.key"), "none.key: No such file or directory"),
            (with("empty.pem", "a.key"), "no certificate in the file"),
            (with("a.pem", "a.pem"), "no private key in the file"),
            (with("a.pem", "locked.key"), "passphrase"),
            (with("a.pem", "text.key"), "no valid PEM"),
            (with("a.pem", "b.key"), "b.key does not belong to the certificate in"),
            (with("bad.pem", "a.key"), "bad.pem cannot be used"),
            (client_ca("none.pem"), "none.pem: No such file"),
            (client_ca("a.key"), "no certificate in the file"),
            (client_ca("bad.pem"), "bad.pem cannot be used"),
            (sni(&["*"]), "\"*\" is no server name"),
            (sni(&["a b"]), "\"a b\" is no server name"),
            (sni(&["a.test", "A.test"]), "\"a.test\" has two certificates"),
        ] {
            let error = ServerTlsAcceptor::new(&options).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
