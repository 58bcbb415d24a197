//! `GET /logs/…`: the machine's own logs, files and directories, as kubelet serves them by default. Log
//! queries (`?query=`) are not supported; kubelet has them off by default.
//!
//! A process with write access to the directory, such as a pod with a `hostPath`, could create a link to
//! any file of the machine. So the kernel resolves each path beneath the directory, and files outside of
//! the directory are never opened.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::Stream;
use host_kernel::blocking;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use object_model::{Status, StatusReason};
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use tokio::io::AsyncReadExt;

use super::query::decode_path;
use super::response::{BoxBody, BoxError, error_status, full, status};

/// The directory of the machine's logs; as in kubelet.
const DIRECTORY: &str = "/var/log";

/// Bytes per read.
const CHUNK_BYTES: usize = 64 * 1024;

/// Number of bytes at the start of a file that decide whether the file is text.
const HEAD_BYTES: usize = 512;

/// Responds to a request for a path below `/logs`.
///
/// *Errors.* 404 for a missing path and for special files, 403 for a path outside of the directory.
pub async fn respond(path: &str) -> Result<Response<BoxBody>, Box<Status>> {
    below(PathBuf::from(DIRECTORY), path).await
}

async fn below(directory: PathBuf, path: &str) -> Result<Response<BoxBody>, Box<Status>> {
    let is_directory = path.ends_with('/');
    let name = path.trim_matches('/');
    let last_part = name.rsplit('/').next().unwrap_or_default();
    let path = name.to_owned();
    let entry = blocking(move || find(&directory, &path)).await;
    match entry.map_err(|error| failure(name, &error))? {
        LogEntry::Directory(_) if !is_directory && last_part.is_empty() => redirect("logs/"),
        // The links of a directory's page are relative. So the path of a directory must end with a slash,
        // and the path of a file must not.
        LogEntry::Directory(_) if !is_directory => redirect(&format!("{last_part}/")),
        LogEntry::File(_) if is_directory => redirect(&format!("../{last_part}")),
        LogEntry::Directory(entries) => Ok(page(&entries)),
        LogEntry::File(file) => Ok(content(file)),
    }
}

#[derive(Debug)]
enum LogEntry {
    File(OpenFile),
    /// The names in the directory, sorted; names of directories end with a slash.
    Directory(Vec<String>),
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    bytes: u64,
    is_text: bool,
}

/// Opens a URL path below a directory.
fn find(directory: &Path, path: &str) -> io::Result<LogEntry> {
    let path = PathBuf::from(std::ffi::OsString::from_vec(decode_path(path)));
    let path = match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => &path,
    };
    let root = File::open(directory)?;
    // With this flag, opening a pipe does not wait for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = File::from(rustix::fs::openat2(
        &root,
        path,
        flags,
        Mode::empty(),
        resolve,
    )?);
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Ok(LogEntry::Directory(names(&file)?));
    }
    if !metadata.is_file() {
        return Err(Errno::NOENT.into());
    }
    let mut head = [0; HEAD_BYTES];
    let length = rustix::io::pread(&file, &mut head, 0)?;
    Ok(LogEntry::File(OpenFile {
        file,
        bytes: metadata.len(),
        is_text: !head.iter().take(length).any(|byte| *byte == 0),
    }))
}

fn names(directory: &File) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        if matches!(&*name, "." | "..") {
            continue;
        }
        let slash = match entry.file_type() {
            FileType::Directory => "/",
            _ => "",
        };
        names.push(format!("{name}{slash}"));
    }
    names.sort_unstable();
    Ok(names)
}

fn failure(path: &str, error: &io::Error) -> Box<Status> {
    let errno = Errno::from_io_error(error);
    match errno {
        Some(Errno::NOENT | Errno::NOTDIR | Errno::NXIO | Errno::INVAL | Errno::NAMETOOLONG) => {
            let message = format!("there is no log {path:?}");
            error_status(StatusCode::NOT_FOUND, &message)
        }
        Some(Errno::XDEV | Errno::LOOP) => {
            let message = format!("{path:?} is not below the directory of the logs");
            Box::new(status(StatusReason::Forbidden, &message))
        }
        _ => {
            let message = format!("log {path:?}: {error}");
            error_status(StatusCode::INTERNAL_SERVER_ERROR, &message)
        }
    }
}

fn redirect(location: &str) -> Result<Response<BoxBody>, Box<Status>> {
    let location = HeaderValue::from_str(location)
        .map_err(|_| error_status(StatusCode::BAD_REQUEST, "the path is no path of an URL"))?;
    let mut response = Response::new(full(Vec::new()));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// A page with a directory's names as links. The format is that of Go's file server, because clients parse
/// the page.
fn page(names: &[String]) -> Response<BoxBody> {
    let mut text = String::from(
        "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n",
    );
    for name in names {
        let (link, label) = (url_encoded(name), html_escaped(name));
        text.push_str(&format!("<a href=\"{link}\">{label}</a>\n"));
    }
    text.push_str("</pre>\n");
    let mut response = Response::new(full(text.into_bytes()));
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, html);
    response
}

/// A name as a relative URL: all special characters except the slash at the end are encoded.
fn url_encoded(name: &str) -> String {
    let mut out = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                out.push(char::from(byte));
            }
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn html_escaped(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// The present content of a file, without data that is written later.
fn content(file: OpenFile) -> Response<BoxBody> {
    let OpenFile {
        file,
        bytes,
        is_text,
    } = file;
    let kind = match is_text {
        true => "text/plain; charset=utf-8",
        false => "application/octet-stream",
    };
    let chunks = chunks(tokio::fs::File::from_std(file), bytes);
    let mut response = Response::new(StreamBody::new(chunks).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    // With this header, browsers do not execute the content of a log.
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

fn chunks(
    file: tokio::fs::File,
    bytes: u64,
) -> impl Stream<Item = Result<Frame<Bytes>, BoxError>> + Send {
    let reader = Some(file.take(bytes));
    futures::stream::unfold(reader, |reader| async move {
        let mut reader = reader?;
        if reader.limit() == 0 {
            return None;
        }
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let result = (&mut reader)
            .take(CHUNK_BYTES as u64)
            .read_to_end(&mut chunk)
            .await;
        match result {
            Ok(0) => Some((Err("the log was cut while it was read".into()), None)),
            Ok(_) => Some((Ok(Frame::data(chunk.into())), Some(reader))),
            Err(error) => Some((Err(error.into()), None)),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    async fn get(directory: &Path, path: &str) -> (u16, String, String) {
        let response = match below(directory.to_owned(), path).await {
            Ok(response) => response,
            Err(status) => return (status.code, String::new(), status.message),
        };
        let (parts, body) = response.into_parts();
        let named = |name| parts.headers.get(name).map(HeaderValue::to_str);
        let header = named(header::LOCATION).or(named(header::CONTENT_TYPE));
        let header = header.unwrap_or(Ok("")).unwrap_or_default().to_owned();
        let bytes = body.collect().await.map(|body| body.to_bytes());
        let text = String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
        (parts.status.as_u16(), header, text)
    }

    fn logs() -> io::Result<tempfile::TempDir> {
        let outside = tempfile::tempdir()?;
        let logs = outside.path().join("log");
        std::fs::create_dir_all(logs.join("apt"))?;
        std::fs::write(outside.path().join("secret"), "s3cret")?;
        std::fs::write(logs.join("syslog"), "x".repeat(200_000))?;
        std::fs::write(logs.join("apt/a b&c.log"), "hello\n")?;
        std::fs::write(logs.join("wtmp"), [1, 0, 2])?;
        symlink("apt/a b&c.log", logs.join("inside"))?;
        symlink("../secret", logs.join("outside"))?;
        symlink("/etc/passwd", logs.join("passwd"))?;
        symlink("..", logs.join("apt/up"))?;
        rustix::fs::mkfifoat(rustix::fs::CWD, logs.join("pipe"), Mode::RUSR)?;
        Ok(outside)
    }

    #[tokio::test]
    async fn files_and_directories_are_served() -> io::Result<()> {
        let outside = logs()?;
        let logs = outside.path().join("log");
        let (code, kind, text) = get(&logs, "/").await;
        assert_eq!((code, kind.as_str()), (200, "text/html; charset=utf-8"));
        let links: Vec<&str> = text.lines().filter(|line| line.starts_with("<a")).collect();
        let first_links = ["<a href=\"apt/\">apt/</a>", "<a href=\"inside\">inside</a>"];
        assert_eq!(links[..2], first_links);
        let (_, _, text) = get(&logs, "/apt/").await;
        let link = "<a href=\"a%20b%26c.log\">a b&amp;c.log</a>";
        assert!(text.contains(link), "{text}");
        for path in [
            "/apt/a%20b%26c.log",
            "/inside",
            "/apt/../inside",
            "//inside",
        ] {
            let (code, kind, text) = get(&logs, path).await;
            let expected = (200, "text/plain; charset=utf-8", "hello\n");
            assert_eq!((code, kind.as_str(), text.as_str()), expected, "{path}");
        }
        let (_, _, text) = get(&logs, "/syslog").await;
        assert_eq!(text.len(), 200_000);
        let (_, kind, _) = get(&logs, "/wtmp").await;
        assert_eq!(kind, "application/octet-stream");
        for (path, to) in [("", "logs/"), ("/apt", "apt/"), ("/syslog/", "../syslog")] {
            let (code, location, _) = get(&logs, path).await;
            assert_eq!((code, location.as_str()), (301, to), "{path}");
        }
        Ok(())
    }

    #[tokio::test]
    async fn nothing_outside_is_opened() -> io::Result<()> {
        let outside = logs()?;
        let logs = outside.path().join("log");
        for (path, expected) in [
            ("/absent", 404),
            ("/syslog/x", 404),
            ("/pipe", 404),
            ("/a%00b", 404),
            ("/outside", 403),
            ("/passwd", 403),
            ("/../secret", 403),
            ("/%2e%2e/secret", 403),
            ("/..%2fsecret", 403),
            ("/apt/up/../secret", 403),
        ] {
            let (code, _, text) = get(&logs, path).await;
            assert_eq!(code, expected, "{path}: {text}");
            assert!(!text.contains("s3cret") && !text.contains("root:"));
        }
        Ok(())
    }

    /// If a log is truncated while it is read, the reader gets an error.
    #[tokio::test]
    async fn a_truncated_log_is_an_error() -> io::Result<()> {
        let outside = logs()?;
        let logs = outside.path().join("log");
        let response = below(logs.clone(), "/syslog").await;
        File::create(logs.join("syslog"))?;
        let body = response.map(Response::into_body);
        let content = body.map_err(|_| ()).map(BodyExt::collect);
        assert!(content.is_ok());
        if let Ok(content) = content {
            assert!(content.await.is_err());
        }
        Ok(())
    }
}
