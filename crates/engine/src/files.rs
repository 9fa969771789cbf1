//! Plain GET requests: the files of one directory, and the browser's client.
//!
//! What touches a disk runs on other threads, a piece at a time, so that neither a slow disk nor a large
//! file delays a heartbeat. A transfer holds one piece in memory. As everywhere in this crate the
//! connection closes after its answer.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::{BufMut, Bytes, BytesMut};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;

use crate::config::StaticFiles;
use crate::http::{self, RequestHead, Response, percent_decode};
use crate::memory::Memory;
use crate::stream::Stream;

/// The modules of the browser's client and where they are, where the directory has no file of that name.
/// Built from `js/`: see `docs/decisions/011-the-client-in-the-extension.md`.
static CLIENT: &[(&str, &[u8])] = &[("/lifeline.js", include_bytes!("../client/lifeline.js"))];
/// What a file is read and sent in. Who takes less in `limits.handshakeTimeout` is cut.
const PIECE: usize = 64 * 1024;
/// Files that are sent at a time; with their pieces 16 MiB.
const TRANSFERS: usize = 256;
/// Threads that may wait for the disk at a time, of those that the runtime has for what blocks.
const READERS: usize = 4;
/// How long a peer may take to close after its answer.
const LINGER: Duration = Duration::from_millis(500);
/// Of one answer: what was never changed meanwhile is not sent again.
const REVALIDATE: &str = "no-cache";
const FOR_GOOD: &str = "public, max-age=31536000, immutable";

/// See the module's documentation.
#[derive(Debug)]
pub struct Files {
    config: StaticFiles,
    memory: Arc<Memory>,
    transfers: Semaphore,
    readers: Arc<Semaphore>,
    /// Requests answered with a file, or that it has not changed.
    pub served: AtomicU64,
    /// Of bodies.
    pub bytes: AtomicU64,
}

/// What a body is read from.
#[derive(Debug, Clone)]
enum Source {
    File(Arc<File>),
    Client(&'static [u8]),
}

/// What there is to be sent.
#[derive(Debug)]
struct Found {
    source: Source,
    length: u64,
    tag: String,
    modified: Option<SystemTime>,
    content_type: &'static str,
    cache: &'static str,
    /// Pages of other origins may import it.
    shared: bool,
}

/// What a path names.
#[derive(Debug)]
enum Entry {
    Found(Found),
    /// A directory that was asked for without the slash at its end.
    Directory,
}

/// What is left out of an answer, or of a request: `status` with one line of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Problem(u16, &'static str);

const NOT_FOUND: Problem = Problem(404, "no such file");
const BUSY: Problem = Problem(503, "too much to do");

/// A path below the directory, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    /// Relative, without `.` and `..`; empty for the directory itself.
    name: PathBuf,
    /// It ends with a slash.
    directory: bool,
}

impl Files {
    pub fn new(config: StaticFiles, memory: Arc<Memory>) -> Self {
        Self {
            config,
            memory,
            transfers: Semaphore::new(TRANSFERS),
            readers: Arc::new(Semaphore::new(READERS)),
            served: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// Answers a GET or HEAD request and closes. `missing`: the answer where there is no such file.
    /// `patience`: for the disk, and for the peer to take each piece. `cut`: nothing more is sent.
    pub async fn serve(
        &self,
        stream: &mut Stream,
        head: &RequestHead,
        missing: Option<Response>,
        patience: Duration,
        cut: &AtomicBool,
    ) {
        let body = head.method() != "HEAD";
        let place = self.transfers.try_acquire();
        let found = match place {
            Ok(_) => self.find(head, patience).await,
            Err(_) => Err(BUSY),
        };
        let answer = match found {
            Ok(Entry::Found(found)) => {
                self.served.fetch_add(1, Ordering::Relaxed);
                // Fails when the peer has gone or takes too long: there is nobody to be told.
                let _ = self.send(stream, head, &found, patience, cut).await;
                return;
            }
            Ok(Entry::Directory) => {
                let query = head.query();
                let mark = if query.is_empty() { "" } else { "?" };
                let there = format!("{}/{mark}{query}", head.path());
                Response::text(301, "the directory is there").with("Location", there)
            }
            Err(NOT_FOUND) if missing.is_some() => missing.unwrap_or_else(|| Response::new(404)),
            Err(Problem(status, why)) => {
                let answer = Response::text(status, why);
                if status == 503 { answer.with("Retry-After", "1") } else { answer }
            }
        };
        let answer = answer.with("X-Content-Type-Options", "nosniff").encode(body);
        let _ = http::answer_and_close(stream, &answer, LINGER).await;
    }

    async fn find(&self, head: &RequestHead, patience: Duration) -> Result<Entry, Problem> {
        let target = Target::parse(head.path())?;
        let found = match &self.config.directory {
            Some(root) => {
                let root = root.clone();
                self.off_thread(patience, move || look_up(&root, &target)).await.unwrap_or(Err(BUSY))
            }
            None => Err(NOT_FOUND),
        };
        match found {
            Err(NOT_FOUND) => client(head).map(Entry::Found).ok_or(NOT_FOUND),
            found => found,
        }
    }

    /// Runs what may wait for a disk; nothing when it takes too long, or too many others wait.
    async fn off_thread<T: Send + 'static>(
        &self,
        patience: Duration,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let work = async {
            let reader = self.readers.clone().acquire_owned().await.ok()?;
            let job = move || {
                let done = job();
                // Not before: whoever gave up waiting leaves the thread where it is.
                drop(reader);
                done
            };
            tokio::task::spawn_blocking(job).await.ok()
        };
        tokio::time::timeout(patience, work).await.ok().flatten()
    }

    async fn send(
        &self,
        stream: &mut Stream,
        head: &RequestHead,
        found: &Found,
        patience: Duration,
        cut: &AtomicBool,
    ) -> io::Result<()> {
        let part = if found.is_known_by(head) { Part::Nothing } else { found.part(head) };
        let mut out = BytesMut::with_capacity(512);
        found.put_head(&mut out, part);
        let (mut at, end) = match part {
            Part::Whole if head.method() != "HEAD" => (0, found.length),
            Part::Range { first, last } => (first, last + 1),
            _ => (0, 0),
        };
        let _held = Held::new(&self.memory);
        while at < end {
            let length = usize::try_from(end - at).unwrap_or(PIECE).min(PIECE);
            let piece = self.read(found, at, length, patience).await?;
            if at > 0 && cut.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if out.is_empty() {
                in_time(patience, stream.write_all(&piece)).await?;
            } else {
                // Together, so that a small file is one write.
                out.put_slice(&piece);
                in_time(patience, stream.write_all(&out)).await?;
                out = BytesMut::new();
            }
            self.bytes.fetch_add(length as u64, Ordering::Relaxed);
            at += length as u64;
        }
        in_time(patience, async {
            stream.write_all(&out).await?;
            stream.flush().await
        })
        .await?;
        http::answer_and_close(stream, &[], LINGER).await
    }

    async fn read(&self, found: &Found, at: u64, length: usize, patience: Duration) -> io::Result<Bytes> {
        match &found.source {
            Source::Client(module) => {
                let at = usize::try_from(at).unwrap_or(usize::MAX);
                Ok(module.get(at..at + length).map(Bytes::from_static).unwrap_or_default())
            }
            Source::File(file) => {
                let file = file.clone();
                let read = move || {
                    let mut piece = vec![0; length];
                    // A file that has become shorter cannot be sent as announced: the link is cut.
                    file.read_exact_at(&mut piece, at).map(|()| piece)
                };
                let piece = self.off_thread(patience, read).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))?;
                Ok(piece.into())
            }
        }
    }
}

/// What goes into an answer's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    /// Both ends are sent.
    Range {
        first: u64,
        last: u64,
    },
    /// The client has it.
    Nothing,
    /// A range that begins behind the end.
    Unsatisfiable,
}

impl Found {
    /// Whether the client has this version (RFC 9110 section 13.2.2).
    fn is_known_by(&self, head: &RequestHead) -> bool {
        let mut tags = head.list("if-none-match").peekable();
        if tags.peek().is_some() {
            return tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == self.tag);
        }
        let since = head.header("if-modified-since").and_then(|date| httpdate::parse_http_date(&date).ok());
        matches!((since, self.modified), (Some(since), Some(modified)) if seconds(modified) <= seconds(since))
    }

    /// RFC 9110 section 14: one range; who asks for several gets the whole.
    fn part(&self, head: &RequestHead) -> Part {
        let Some(range) = head.header("range").filter(|_| head.method() == "GET") else { return Part::Whole };
        if let Some(condition) = head.header("if-range") {
            let date = httpdate::parse_http_date(&condition).ok();
            let same = match (date, self.modified) {
                (Some(date), Some(modified)) => seconds(date) == seconds(modified),
                _ => condition == self.tag,
            };
            if !same {
                return Part::Whole;
            }
        }
        let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
            return Part::Whole;
        };
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            // More than any file has.
            digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
        };
        match (number(first.trim()), number(last.trim())) {
            (Some(first), None) if last.trim().is_empty() && first < self.length => {
                Part::Range { first, last: self.length - 1 }
            }
            (Some(first), Some(last)) if first <= last && first < self.length => {
                Part::Range { first, last: last.min(self.length - 1) }
            }
            (None, Some(count)) if first.trim().is_empty() && count > 0 && self.length > 0 => {
                Part::Range { first: self.length.saturating_sub(count), last: self.length - 1 }
            }
            (Some(first), last) if last.is_none_or(|last| first <= last) && !range.contains(',') => Part::Unsatisfiable,
            (None, Some(_)) if first.trim().is_empty() => Part::Unsatisfiable,
            _ => Part::Whole,
        }
    }

    fn put_head(&self, out: &mut BytesMut, part: Part) {
        let (status, length) = match part {
            Part::Whole => (200, Some(self.length)),
            Part::Range { first, last } => (206, Some(last + 1 - first)),
            Part::Nothing => (304, None),
            Part::Unsatisfiable => (416, Some(0)),
        };
        http::put_status_line(out, status);
        http::put_header(out, "Date", &httpdate::fmt_http_date(SystemTime::now()));
        http::put_header(out, "ETag", &self.tag);
        http::put_header(out, "Cache-Control", self.cache);
        if let Some(modified) = self.modified {
            http::put_header(out, "Last-Modified", &httpdate::fmt_http_date(modified));
        }
        if self.shared {
            http::put_header(out, "Access-Control-Allow-Origin", "*");
        }
        if let Some(length) = length {
            http::put_header(out, "Accept-Ranges", "bytes");
            http::put_header(out, "Content-Type", self.content_type);
            http::put_header(out, "Content-Length", &length.to_string());
        }
        match part {
            Part::Range { first, last } => {
                http::put_header(out, "Content-Range", &format!("bytes {first}-{last}/{}", self.length));
            }
            Part::Unsatisfiable => http::put_header(out, "Content-Range", &format!("bytes */{}", self.length)),
            Part::Whole | Part::Nothing => {}
        }
        http::put_header(out, "X-Content-Type-Options", "nosniff");
        http::put_header(out, "Connection", "close");
        out.put_slice(b"\r\n");
    }
}

impl Target {
    /// Decodes a path once and refuses what could lead out of the directory, or was not meant to be served.
    fn parse(path: &str) -> Result<Self, Problem> {
        let Some(below) = path.strip_prefix('/') else { return Err(Problem(400, "the path has no '/'")) };
        let mut name = PathBuf::new();
        let mut segments = below.split('/').peekable();
        let mut directory = false;
        while let Some(segment) = segments.next() {
            if segment.is_empty() {
                if segments.peek().is_some() {
                    return Err(NOT_FOUND);
                }
                directory = true;
                break;
            }
            let segment = percent_decode(segment.as_bytes(), false);
            if segment.iter().any(|byte| byte.is_ascii_control() || matches!(byte, b'/' | b'\\')) {
                return Err(Problem(400, "a path with a separator or control character in a name"));
            }
            if segment == b"." || segment == b".." {
                return Err(Problem(400, "a path with '.' or '..'"));
            }
            if !is_public(&segment) {
                return Err(NOT_FOUND);
            }
            name.push(std::ffi::OsStr::from_bytes(&segment));
        }
        Ok(Self { name, directory })
    }
}

/// False for what is hidden, and for the sources of PHP and copies of them: nobody means to show those.
fn is_public(name: &[u8]) -> bool {
    let lower = name.to_ascii_lowercase();
    let source = memchr::memmem::find(&lower, b".php").is_some()
        || [b".phtml".as_slice(), b".phar", b".inc"].iter().any(|end| lower.ends_with(end));
    name.first() != Some(&b'.') && !source
}

/// Blocking.
fn look_up(root: &Path, target: &Target) -> Result<Entry, Problem> {
    // Anew for each request: the name may have come to mean another release.
    let beneath = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, root, beneath, Mode::empty()).map_err(problem)?;
    let mut name = target.name.clone();
    let mut file = open_beneath(&root, &name)?;
    let mut metadata = file.metadata().map_err(|_| NOT_FOUND)?;
    if metadata.is_dir() {
        if !target.directory {
            return Ok(Entry::Directory);
        }
        name.push("index.html");
        file = open_beneath(&root, &name)?;
        metadata = file.metadata().map_err(|_| NOT_FOUND)?;
    } else if target.directory {
        return Err(NOT_FOUND);
    }
    if !metadata.is_file() {
        return Err(NOT_FOUND);
    }
    let modified = metadata.modified().ok();
    // The inode tells a file from the one that replaced it within a tick of the file system's clock, 4 ms on many systems.
    let (inode, seconds, nanoseconds) = (metadata.ino(), metadata.mtime(), metadata.mtime_nsec());
    let tag = format!("\"{:x}-{inode:x}-{seconds:x}-{nanoseconds:x}\"", metadata.len());
    Ok(Entry::Found(Found {
        length: metadata.len(),
        tag,
        modified,
        content_type: content_type(&name),
        cache: REVALIDATE,
        shared: false,
        source: Source::File(Arc::new(file)),
    }))
}

/// Opens what is below `root`, wherever symbolic links on the way point to: those that leave it lead nowhere.
fn open_beneath(root: &OwnedFd, name: &Path) -> Result<File, Problem> {
    let name = if name.as_os_str().is_empty() { Path::new(".") } else { name };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..8 {
        return match openat2(root, name, OPEN, Mode::empty(), resolve) {
            Ok(file) => Ok(file.into()),
            // Something on the way was renamed meanwhile.
            Err(Errno::AGAIN) => continue,
            // An older kernel, or a container that does not let it through.
            Err(Errno::NOSYS | Errno::PERM) => walk(root, name),
            Err(error) => Err(problem(error)),
        };
    }
    Err(BUSY)
}

/// Pipes and devices are not waited for.
const OPEN: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// The same by hand, without any symbolic link.
fn walk(root: &OwnedFd, name: &Path) -> Result<File, Problem> {
    let mut directory = None;
    let mut names = name.iter().peekable();
    while let Some(name) = names.next() {
        let last = names.peek().is_none();
        let flags = if last { OPEN } else { OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC };
        let within = directory.as_ref().unwrap_or(root);
        let opened = openat(within.as_fd(), name, flags | OFlags::NOFOLLOW, Mode::empty()).map_err(problem)?;
        if last {
            return Ok(opened.into());
        }
        directory = Some(opened);
    }
    Err(NOT_FOUND)
}

fn problem(error: Errno) -> Problem {
    match error {
        Errno::ACCESS | Errno::PERM => Problem(403, "not readable"),
        Errno::MFILE | Errno::NFILE | Errno::NOMEM => BUSY,
        Errno::IO | Errno::STALE => Problem(500, "cannot be read"),
        _ => NOT_FOUND,
    }
}

/// A module of the client that is part of the extension.
fn client(head: &RequestHead) -> Option<Found> {
    let (_, module) = CLIENT.iter().find(|(path, _)| *path == head.path())?;
    let mut hasher = DefaultHasher::new();
    hasher.write(module);
    let versioned = head.query().split('&').any(|pair| pair.strip_prefix("v=") == Some(env!("CARGO_PKG_VERSION")));
    Some(Found {
        source: Source::Client(module),
        length: module.len() as u64,
        tag: format!("\"{:x}-{:016x}\"", module.len(), hasher.finish()),
        modified: None,
        content_type: "text/javascript; charset=utf-8",
        cache: if versioned { FOR_GOOD } else { REVALIDATE },
        shared: true,
    })
}

/// By the name's end, in any case.
fn content_type(name: &Path) -> &'static str {
    let end = name.extension().map(|end| end.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    TYPES.iter().find(|(known, _)| *known == end).map_or("application/octet-stream", |(_, content_type)| content_type)
}

const TYPES: &[(&str, &str)] = &[
    ("aac", "audio/aac"),
    ("avif", "image/avif"),
    ("bmp", "image/bmp"),
    ("css", "text/css; charset=utf-8"),
    ("csv", "text/csv; charset=utf-8"),
    ("flac", "audio/flac"),
    ("gif", "image/gif"),
    ("gz", "application/gzip"),
    ("htm", "text/html; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("ico", "image/vnd.microsoft.icon"),
    ("ics", "text/calendar; charset=utf-8"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("jsonld", "application/ld+json"),
    ("m4a", "audio/mp4"),
    ("map", "application/json"),
    ("md", "text/markdown; charset=utf-8"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("oga", "audio/ogg"),
    ("ogg", "audio/ogg"),
    ("ogv", "video/ogg"),
    ("opus", "audio/ogg"),
    ("otf", "font/otf"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("rss", "application/rss+xml"),
    ("svg", "image/svg+xml"),
    ("tar", "application/x-tar"),
    ("ttf", "font/ttf"),
    ("txt", "text/plain; charset=utf-8"),
    ("wasm", "application/wasm"),
    ("wav", "audio/wav"),
    ("weba", "audio/webm"),
    ("webm", "video/webm"),
    ("webmanifest", "application/manifest+json"),
    ("webp", "image/webp"),
    ("woff", "font/woff"),
    ("woff2", "font/woff2"),
    ("xhtml", "application/xhtml+xml"),
    ("xml", "application/xml"),
    ("zip", "application/zip"),
];

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

async fn in_time<T>(patience: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(patience, work).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}

/// A piece, counted at `limits.memory`.
struct Held<'a>(&'a Memory);

impl<'a> Held<'a> {
    fn new(memory: &'a Memory) -> Self {
        memory.charge(PIECE);
        Self(memory)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.release(PIECE);
    }
}

#[cfg(test)]
mod tests;
