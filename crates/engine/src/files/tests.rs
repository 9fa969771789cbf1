use std::os::unix::fs::symlink;

use proptest::prelude::*;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use super::*;
use crate::listen::PeerAddr;

const PATIENCE: Duration = Duration::from_secs(30);

/// `public/` with files, beside what must not be seen.
struct Tree(PathBuf);

impl Tree {
    fn new(test: &str) -> Self {
        let root = std::env::temp_dir().join(format!("lifeline-files-{test}-{}", std::process::id()));
        let public = root.join("public");
        std::fs::create_dir_all(public.join("sub/.git")).unwrap();
        std::fs::create_dir_all(public.join("empty")).unwrap();
        for (name, text) in [
            ("secret.txt", "SECRET"),
            ("public/index.html", "<!doctype html>"),
            ("public/a b+c.txt", "spaced"),
            ("public/ten", "0123456789"),
            ("public/nothing.css", ""),
            ("public/PICTURE.SVG", "<svg/>"),
            ("public/sub/page.html", "page"),
            ("public/sub/.git/config", "SECRET"),
            ("public/.env", "SECRET"),
            ("public/index.php", "SECRET"),
            ("public/old.PHP.bak", "SECRET"),
            ("public/lib.phtml", "SECRET"),
            ("public/db.inc", "SECRET"),
            ("public/a\\b", "SECRET"),
        ] {
            std::fs::write(root.join(name), text).unwrap();
        }
        for (name, to) in [
            ("out", "../secret.txt"),
            ("up", ".."),
            ("absolute", "/etc/hostname"),
            ("loop", "loop"),
            ("within", "ten"),
            ("there", "sub"),
        ] {
            symlink(to, public.join(name)).unwrap();
        }
        rustix::fs::mknodat(CWD, public.join("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        Self(root)
    }

    fn public(&self) -> PathBuf {
        self.0.join("public")
    }

    fn files(&self) -> Arc<Files> {
        Arc::new(Files::new(StaticFiles { directory: Some(self.public()) }, Arc::default()))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The answer's head and body.
async fn ask(files: &Arc<Files>, method: &str, target: &str, more: &str) -> (String, Vec<u8>) {
    let text = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{more}\r\n");
    let head = RequestHead::parse(text.as_bytes(), &PeerAddr::Unix, false, &[]).unwrap().0;
    let (near, mut far) = UnixStream::pair().unwrap();
    let served = {
        let files = files.clone();
        tokio::spawn(async move {
            let mut near = Stream::Unix(near.into());
            files.serve(&mut near, &head, None, PATIENCE, &AtomicBool::new(false)).await;
        })
    };
    let mut answer = Vec::new();
    far.read_to_end(&mut answer).await.unwrap();
    drop(far);
    served.await.unwrap();
    let end = memchr::memmem::find(&answer, b"\r\n\r\n").expect("a head") + 4;
    (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end..].to_vec())
}

fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

#[tokio::test]
async fn files_have_types_lengths_and_tags() {
    let tree = Tree::new("types");
    let files = tree.files();
    for (target, content_type, body) in [
        ("/", "text/html; charset=utf-8", "<!doctype html>"),
        ("/index.html?x=/../", "text/html; charset=utf-8", "<!doctype html>"),
        ("http://a/sub/page.html", "text/html; charset=utf-8", "page"),
        ("/a%20b+c.txt", "text/plain; charset=utf-8", "spaced"),
        ("/ten", "application/octet-stream", "0123456789"),
        ("/within", "application/octet-stream", "0123456789"),
        ("/there/page.html", "text/html; charset=utf-8", "page"),
        ("/nothing.css", "text/css; charset=utf-8", ""),
        ("/PICTURE.SVG", "image/svg+xml", "<svg/>"),
    ] {
        let (head, got) = ask(&files, "GET", target, "").await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{target}: {head}");
        assert_eq!(field(&head, "Content-Type"), Some(content_type), "{target}");
        assert_eq!(field(&head, "Content-Length"), Some(&*body.len().to_string()), "{target}");
        assert_eq!(field(&head, "X-Content-Type-Options"), Some("nosniff"));
        assert_eq!(field(&head, "Connection"), Some("close"));
        assert_eq!(field(&head, "Cache-Control"), Some("no-cache"));
        assert!(field(&head, "ETag").is_some() && field(&head, "Last-Modified").is_some());
        assert_eq!(String::from_utf8(got).unwrap(), body, "{target}");
        let (same, nothing) = ask(&files, "HEAD", target, "").await;
        assert_eq!((field(&same, "Content-Length"), nothing), (field(&head, "Content-Length"), vec![]), "{target}");
    }
    assert_eq!((files.served.load(Ordering::Relaxed), files.bytes.load(Ordering::Relaxed)), (18, 70));
}

#[tokio::test]
async fn nothing_leads_out_of_the_directory() {
    let tree = Tree::new("out");
    let files = tree.files();
    for (target, expected) in [
        ("/../secret.txt", 400),
        ("/sub/../../secret.txt", 400),
        ("/%2e%2e/secret.txt", 400),
        ("/.%2E/secret.txt", 400),
        ("/./ten", 400),
        ("/..%2fsecret.txt", 400),
        ("/sub%2fpage.html", 400),
        ("/sub%2Fpage.html", 400),
        ("/..%5csecret.txt", 400),
        ("/..\\secret.txt", 400),
        ("/a\\b", 400),
        ("/a%5Cb", 400),
        ("/ten%00.html", 400),
        ("/ten%0d%0aX:1", 400),
        ("/%7f", 400),
        ("*", 400),
        ("//etc/hostname", 404),
        ("//evil.example/sub", 404),
        ("/sub//page.html", 404),
        ("/etc/hostname", 404),
        ("/%252e%252e/secret.txt", 404),
        ("/%c0%ae%c0%ae/secret.txt", 404),
        ("/out", 404),
        ("/up/secret.txt", 404),
        ("/up/public/ten", 404),
        ("/absolute", 404),
        ("/loop", 404),
        ("/pipe", 404),
        ("/.env", 404),
        ("/%2eenv", 404),
        ("/sub/.git/config", 404),
        ("/index.php", 404),
        ("/index.PHP", 404),
        ("/index%2ephp", 404),
        ("/old.PHP.bak", 404),
        ("/lib.phtml", 404),
        ("/db.inc", 404),
        ("/ten/", 404),
        ("/ten/more", 404),
        ("/empty/", 404),
        ("/missing", 404),
        ("/%zz", 404),
    ] {
        let (head, body) = ask(&files, "GET", target, "").await;
        assert_eq!(status(&head), expected, "{target}: {head}");
        assert!(body.len() < 80 && !body.windows(6).any(|part| part == b"SECRET"), "{target}");
        assert_eq!(field(&head, "X-Content-Type-Options"), Some("nosniff"), "{target}");
    }
    let long = format!("/{}", "a".repeat(5000));
    assert_eq!(status(&ask(&files, "GET", &long, "").await.0), 404);
    assert_eq!(files.served.load(Ordering::Relaxed), 0);
}

#[test]
fn kernels_without_openat2_follow_no_links() {
    let tree = Tree::new("walk");
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let root = openat(CWD, tree.public(), flags, Mode::empty()).unwrap();
    for name in ["ten", "sub/page.html", "sub", "."] {
        assert!(walk(&root, Path::new(name)).is_ok(), "{name}");
    }
    for name in ["out", "up/secret.txt", "there/page.html", "within", "loop", "missing", "ten/more", ""] {
        assert_eq!(walk(&root, Path::new(name)).unwrap_err(), NOT_FOUND, "{name}");
    }
}

#[tokio::test]
async fn a_directory_without_its_slash_is_redirected() {
    let tree = Tree::new("redirect");
    let files = tree.files();
    for (target, location) in [("/sub", "/sub/"), ("/sub?a=1", "/sub/?a=1"), ("http://a/%73ub", "/%73ub/")] {
        let (head, _) = ask(&files, "GET", target, "").await;
        assert_eq!((status(&head), field(&head, "Location")), (301, Some(location)), "{target}");
    }
}

#[tokio::test]
async fn what_the_client_has_is_not_sent_again() {
    let tree = Tree::new("known");
    let files = tree.files();
    let (head, _) = ask(&files, "GET", "/ten", "").await;
    let (tag, date) = (field(&head, "ETag").unwrap(), field(&head, "Last-Modified").unwrap());
    for (more, expected) in [
        (format!("If-None-Match: {tag}\r\n"), 304),
        (format!("If-None-Match: \"x\", W/{tag}\r\n"), 304),
        ("If-None-Match: *\r\n".into(), 304),
        ("If-None-Match: \"x\"\r\n".into(), 200),
        (format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {date}\r\n"), 200),
        (format!("If-Modified-Since: {date}\r\n"), 304),
        ("If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\n".into(), 200),
        ("If-Modified-Since: yesterday\r\n".into(), 200),
        (format!("If-None-Match: {tag}\r\nRange: bytes=0-1\r\n"), 304),
    ] {
        let (head, body) = ask(&files, "GET", "/ten", &more).await;
        assert_eq!(status(&head), expected, "{more}");
        assert_eq!(body.len(), if expected == 200 { 10 } else { 0 }, "{more}");
        assert!(field(&head, "ETag") == Some(tag) && (expected == 200 || field(&head, "Content-Length").is_none()));
    }
    // Another content of the same length has another tag, also where the file is replaced within a tick of the clock.
    let before = std::fs::metadata(tree.public().join("ten")).unwrap().modified().unwrap();
    std::fs::write(tree.public().join("new"), "9876543210").unwrap();
    std::fs::File::open(tree.public().join("new")).unwrap().set_modified(before).unwrap();
    std::fs::rename(tree.public().join("new"), tree.public().join("ten")).unwrap();
    let (head, body) = ask(&files, "GET", "/ten", &format!("If-None-Match: {tag}\r\n")).await;
    assert_eq!((status(&head), body), (200, b"9876543210".to_vec()));
}

#[tokio::test]
async fn one_range_is_sent_alone() {
    let tree = Tree::new("range");
    let files = tree.files();
    let (head, _) = ask(&files, "GET", "/ten", "").await;
    let (tag, date) = (field(&head, "ETag").unwrap(), field(&head, "Last-Modified").unwrap());
    for (range, expected, body, place) in [
        ("bytes=0-0", 206, "0", Some("bytes 0-0/10")),
        ("bytes=2-4", 206, "234", Some("bytes 2-4/10")),
        ("bytes=8-", 206, "89", Some("bytes 8-9/10")),
        ("bytes=8-99999999999999999999999", 206, "89", Some("bytes 8-9/10")),
        ("bytes=-3", 206, "789", Some("bytes 7-9/10")),
        ("bytes=-30", 206, "0123456789", Some("bytes 0-9/10")),
        ("bytes=10-", 416, "", Some("bytes */10")),
        ("bytes=-0", 416, "", Some("bytes */10")),
        ("bytes=99999999999999999999999-", 416, "", Some("bytes */10")),
        ("bytes=4-2", 200, "0123456789", None),
        ("bytes=0-1,4-5", 200, "0123456789", None),
        ("bytes=a-b", 200, "0123456789", None),
        ("bytes=-", 200, "0123456789", None),
        ("lines=0-1", 200, "0123456789", None),
    ] {
        let (head, got) = ask(&files, "GET", "/ten", &format!("Range: {range}\r\n")).await;
        assert_eq!((status(&head), &*String::from_utf8(got).unwrap()), (expected, body), "{range}");
        assert_eq!(field(&head, "Content-Range"), place, "{range}");
        assert_eq!(field(&head, "Content-Length"), Some(&*body.len().to_string()), "{range}");
    }
    for (condition, expected) in [(tag, 206), (date, 206), ("\"x\"", 200), ("Thu, 01 Jan 1970 00:00:00 GMT", 200)] {
        let more = format!("Range: bytes=0-1\r\nIf-Range: {condition}\r\n");
        assert_eq!(status(&ask(&files, "GET", "/ten", &more).await.0), expected, "{condition}");
    }
    let (head, body) = ask(&files, "HEAD", "/ten", "Range: bytes=0-1\r\n").await;
    assert_eq!((status(&head), field(&head, "Content-Length"), body), (200, Some("10"), vec![]));
    assert_eq!(status(&ask(&files, "GET", "/nothing.css", "Range: bytes=-1\r\n").await.0), 416);
}

#[tokio::test]
async fn the_client_is_part_of_it() {
    let tree = Tree::new("client");
    let module = CLIENT[0].1;
    for files in [tree.files(), Arc::new(Files::new(StaticFiles::default(), Arc::default()))] {
        let (head, body) = ask(&files, "GET", "/lifeline.js", "").await;
        assert_eq!((status(&head), &*body), (200, module));
        assert_eq!(field(&head, "Content-Type"), Some("text/javascript; charset=utf-8"));
        assert_eq!(field(&head, "Access-Control-Allow-Origin"), Some("*"));
        assert_eq!(field(&head, "Cache-Control"), Some("no-cache"));
        let tag = field(&head, "ETag").unwrap();
        assert_eq!(status(&ask(&files, "GET", "/lifeline.js", &format!("If-None-Match: {tag}\r\n")).await.0), 304);
        let versioned = format!("/lifeline.js?v={}", env!("CARGO_PKG_VERSION"));
        let (head, _) = ask(&files, "GET", &versioned, "").await;
        assert_eq!(field(&head, "Cache-Control"), Some(FOR_GOOD));
        let (head, _) = ask(&files, "GET", "/lifeline.js?v=0.0.0", "").await;
        assert_eq!(field(&head, "Cache-Control"), Some("no-cache"), "another version than was asked for");
        let (head, part) = ask(&files, "GET", "/lifeline.js", "Range: bytes=5-9\r\n").await;
        assert_eq!((status(&head), &*part), (206, &module[5..10]));
    }
    // The user's own comes first.
    std::fs::write(tree.public().join("lifeline.js"), "own").unwrap();
    assert_eq!(ask(&tree.files(), "GET", "/lifeline.js", "").await.1, b"own");
    let alone = Arc::new(Files::new(StaticFiles::default(), Arc::default()));
    assert_eq!(status(&ask(&alone, "GET", "/", "").await.0), 404);
}

#[tokio::test]
async fn a_large_file_arrives_and_only_a_piece_is_held() {
    let tree = Tree::new("large");
    let files = tree.files();
    let content: Vec<u8> = (0..PIECE * 20 + 17).map(|at| (at / 251) as u8).collect();
    std::fs::write(tree.public().join("large"), &content).unwrap();
    let (head, body) = ask(&files, "GET", "/large", "").await;
    assert_eq!(field(&head, "Content-Length"), Some(&*content.len().to_string()));
    assert!(body == content, "as it is on disk");
    assert_eq!((files.memory.used(), files.bytes.load(Ordering::Relaxed)), (0, content.len() as u64));
}

/// A request whose answer the test reads as it likes.
fn begin(files: &Arc<Files>, target: &str, patience: Duration) -> (UnixStream, tokio::task::JoinHandle<()>) {
    let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = RequestHead::parse(text.as_bytes(), &PeerAddr::Unix, false, &[]).unwrap().0;
    let (near, far) = UnixStream::pair().unwrap();
    let files = files.clone();
    let task = tokio::spawn(async move {
        files.serve(&mut Stream::Unix(near.into()), &head, None, patience, &AtomicBool::new(false)).await;
    });
    (far, task)
}

#[tokio::test]
async fn who_reads_nothing_is_cut_and_so_is_a_file_that_shrinks() {
    let tree = Tree::new("slow");
    let files = tree.files();
    std::fs::write(tree.public().join("large"), vec![b'x'; 8 << 20]).unwrap();
    let (mut far, task) = begin(&files, "/large", Duration::from_millis(50));
    task.await.unwrap();
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    assert!(got.len() < 8 << 20, "{}", got.len());

    let (mut far, task) = begin(&files, "/large", PATIENCE);
    far.read_exact(&mut [0; 100]).await.unwrap();
    File::options().write(true).open(tree.public().join("large")).unwrap().set_len(100).unwrap();
    let mut got = Vec::new();
    far.read_to_end(&mut got).await.unwrap();
    task.await.unwrap();
    assert!(got.len() < 8 << 20, "{}", got.len());
    assert_eq!(files.memory.used(), 0);
}

#[tokio::test]
async fn there_is_an_end_to_transfers() {
    let tree = Tree::new("many");
    let files = tree.files();
    std::fs::write(tree.public().join("large"), vec![b'x'; 8 << 20]).unwrap();
    let mut under_way = Vec::new();
    for _ in 0..TRANSFERS {
        let (mut far, task) = begin(&files, "/large", PATIENCE);
        far.read_exact(&mut [0; 1]).await.unwrap();
        under_way.push((far, task));
    }
    assert_eq!(files.memory.used(), TRANSFERS * PIECE);
    let (head, _) = ask(&files, "GET", "/ten", "").await;
    assert_eq!((status(&head), field(&head, "Retry-After")), (503, Some("1")));
    let (far, task) = under_way.pop().unwrap();
    drop(far);
    task.await.unwrap();
    assert_eq!(status(&ask(&files, "GET", "/ten", "").await.0), 200);
}

proptest! {
    #[test]
    fn no_path_names_anything_above_or_hidden(
        parts in proptest::collection::vec("/|\\.|\\.\\.|%2e|%2E|%2f|%5c|%00|%25|\\\\|a|\\.git|x\\.php|\u{e9}|[ -~]", 0..12),
    ) {
        let path = parts.concat();
        if let Ok(target) = Target::parse(&path) {
            for part in target.name.components() {
                let std::path::Component::Normal(name) = part else { panic!("{path}: {part:?}") };
                let name = name.as_bytes();
                prop_assert!(!name.contains(&0) && !name.contains(&b'\\') && name[0] != b'.', "{}", path);
            }
            prop_assert!(!target.name.is_absolute() && path.starts_with('/'));
        }
    }
}
