//! `wget` and `curl`: a page by HTTP or HTTPS.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use outbound_http::redirect;
use outbound_http::tls::{self, BlockingStream, Roots};
use url::{Position, Url};

use super::network::{CONNECT_TIMEOUT, connect};
use crate::options::{Options, ToolOptions, misuse};
use crate::report::{ToolResult, complain, complain_as_tool};

/// Maximum number of redirects.
const REDIRECTS_MAX: u32 = 10;
/// Maximum length of a line, and maximum number of lines, in a response's header.
const LINE_MAX: u64 = 64 << 10;
const LINES_MAX: usize = 200;

#[derive(Clone, Debug)]
struct Request {
    method: String,
    headers: Vec<String>,
    body: Vec<u8>,
    timeout: Duration,
    trust: Trust,
}

/// The certificates that the tool accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trust {
    /// Certificates that an authority in this file has signed.
    File(String),
    /// All certificates.
    Everybody,
}

/// The header of a response.
#[derive(Debug)]
struct Head {
    status: u16,
    lines: Vec<String>,
}

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

pub fn wget(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let supported = ToolOptions {
        flags: "qSck",
        valued: "OTHDtCU",
        long: &[
            ("header", 'H'),
            ("post-data", 'D'),
            ("timeout", 'T'),
            ("output-document", 'O'),
            ("quiet", 'q'),
            ("ca-certificate", 'C'),
            ("no-check-certificate", 'k'),
        ],
        ends_at_operand: false,
    };
    let options = Options::read(arguments, supported)?;
    let url = one_url(&options)?;
    let request = request(&options, 'H', 'D', options.number('T')?);
    let (head, mut body) = get(url, request, true)?;
    if options.has('S') {
        complain(&head.lines.join("\n"));
    }
    if head.status >= 400 {
        bail!("{}", head.lines.first().map_or("", String::as_str));
    }
    let name = url.split('?').next().unwrap_or(url).trim_end_matches('/');
    let name = match name.rsplit('/').next() {
        Some(name)
            if name.len() < url.len() && !name.contains(':') && url.matches('/').count() > 2 =>
        {
            name
        }
        _ => "index.html",
    };
    match options.value('O') {
        Some("-") => io::copy(&mut body, out)?,
        name_given => {
            let name = name_given.unwrap_or(name);
            let mut file = File::create(name).with_context(|| name.to_owned())?;
            io::copy(&mut body, &mut file)?
        }
    };
    Ok(0)
}

pub fn curl(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let supported = ToolOptions {
        flags: "fiksSLvIN",
        valued: "oHXdmCuw",
        long: &[
            ("header", 'H'),
            ("request", 'X'),
            ("data", 'd'),
            ("max-time", 'm'),
            ("connect-timeout", 'm'),
            ("output", 'o'),
            ("silent", 's'),
            ("show-error", 'S'),
            ("fail", 'f'),
            ("include", 'i'),
            ("head", 'I'),
            ("insecure", 'k'),
            ("location", 'L'),
            ("cacert", 'C'),
        ],
        ends_at_operand: false,
    };
    let options = Options::read(arguments, supported)?;
    if options.has('u') || options.has('w') {
        return Err(misuse("this one has no -u and no -w"));
    }
    let url = one_url(&options)?;
    let request = request(&options, 'H', 'd', options.number('m')?);
    let is_silent = options.has('s') && !options.has('S');
    match transfer(url, request, &options, out) {
        Ok(Transfer::Done) => Ok(0),
        Ok(Transfer::Refused(status)) => {
            if !is_silent {
                complain_as_tool(&status);
            }
            Ok(22)
        }
        Err(error) => match exit_code(&error) {
            Some(code) => {
                if !is_silent {
                    complain_as_tool(&format!("{error:#}"));
                }
                Ok(code)
            }
            None => Err(error),
        },
    }
}

/// The exit code of curl for a failed exchange; `None` for other errors, such as those of files (curl(1),
/// exit codes).
fn exit_code(error: &anyhow::Error) -> Option<u8> {
    let mut causes = error.chain();
    let cause = causes.find_map(|cause| cause.downcast_ref::<io::Error>())?;
    match cause.kind() {
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable => Some(7),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Some(28),
        io::ErrorKind::UnexpectedEof => Some(52),
        io::ErrorKind::ConnectionReset => Some(56),
        io::ErrorKind::InvalidData => Some(60),
        // Errors of a name lookup have no error number of the kernel.
        _ if cause.raw_os_error().is_none() => Some(6),
        _ => None,
    }
}

/// The result of an exchange with a response.
enum Transfer {
    Done,
    /// With `--fail`: the status line of a response with an error.
    Refused(String),
}

fn transfer(
    url: &str,
    mut request: Request,
    options: &Options,
    out: &mut dyn Write,
) -> Result<Transfer> {
    if options.has('I') {
        request.method = "HEAD".to_owned();
    }
    if let Some(method) = options.value('X') {
        request.method = method.to_owned();
    }
    let (head, mut body) = get(url, request, options.has('L'))?;
    if options.has('v') {
        complain(&head.lines.join("\n"));
    }
    if options.has('f') && head.status >= 400 {
        return Ok(Transfer::Refused(
            head.lines.into_iter().next().unwrap_or_default(),
        ));
    }
    let mut file = match options.value('o') {
        Some(name) if name != "-" => Some(File::create(name).with_context(|| name.to_owned())?),
        _ => None,
    };
    let target: &mut dyn Write = match &mut file {
        Some(file) => file,
        None => out,
    };
    if options.has('i') || options.has('I') {
        writeln!(target, "{}\n", head.lines.join("\n"))?;
    }
    io::copy(&mut body, target)?;
    Ok(Transfer::Done)
}

fn one_url(options: &Options) -> Result<&str> {
    match &options.operands[..] {
        [url] => Ok(url),
        _ => Err(misuse("one address is needed")),
    }
}

fn request(options: &Options, headers: char, data: char, seconds: Option<u64>) -> Request {
    let body: Vec<&str> = options.values(data).collect();
    let mut headers: Vec<String> = options.values(headers).map(str::to_owned).collect();
    let has_kind = headers.iter().any(|line| {
        let name = line.split(':').next().unwrap_or_default();
        name.eq_ignore_ascii_case("content-type")
    });
    if !body.is_empty() && !has_kind {
        headers.push("Content-Type: application/x-www-form-urlencoded".to_owned());
    }
    Request {
        method: if body.is_empty() { "GET" } else { "POST" }.to_owned(),
        headers,
        body: body.join("&").into_bytes(),
        timeout: seconds.map_or(CONNECT_TIMEOUT, |seconds| {
            Duration::from_secs(seconds.max(1))
        }),
        trust: match options.value('C') {
            _ if options.has('k') => Trust::Everybody,
            Some(file) => Trust::File(file.to_owned()),
            None => Trust::File("/etc/ssl/certs/ca-certificates.crt".to_owned()),
        },
    }
}

/// Parses the URL of a page; the default scheme is `http`.
fn page(text: &str) -> Result<Url> {
    if text.chars().any(char::is_whitespace) {
        bail!("{text:?} is no address of a page");
    }
    let whole = match text.contains("://") {
        true => text.to_owned(),
        false => format!("http://{text}"),
    };
    let url = Url::parse(&whole).with_context(|| format!("{text:?} is no address of a page"))?;
    with_supported_scheme(url)
}

fn with_supported_scheme(url: Url) -> Result<Url> {
    match url.scheme() {
        "http" | "https" => Ok(url),
        scheme => bail!("there is no {scheme} here, only http and https"),
    }
}

/// Sends the request and follows redirects.
fn get(url: &str, mut request: Request, follows: bool) -> Result<(Head, Box<dyn Read>)> {
    let mut url = page(url)?;
    for _ in 0..REDIRECTS_MAX {
        let (head, body) = ask(&url, &request)?;
        let location = head.value("location").filter(|_| follows);
        let Some(location) = location.filter(|_| (300..400).contains(&head.status)) else {
            return Ok((head, body));
        };
        let next = redirect::target(&url, location).with_context(|| location.to_owned())?;
        let next = with_supported_scheme(next)?;
        if next.origin() != url.origin() {
            // The user's headers are not sent to another host.
            request.headers.clear();
        }
        url = next;
    }
    bail!("the page is always elsewhere")
}

fn ask(url: &Url, request: &Request) -> Result<(Head, Box<dyn Read>)> {
    if !url.username().is_empty() || url.password().is_some() {
        bail!("a name and a password in an address are not sent: use a header");
    }
    let host = url.host_str().context("the address names no host")?;
    let port = url
        .port_or_known_default()
        .context("the address names no port")?;
    let stream = connect(host, port, request.timeout)?;
    stream.set_read_timeout(Some(request.timeout))?;
    stream.set_write_timeout(Some(request.timeout))?;
    let mut stream: Box<dyn Stream> = match url.scheme() {
        "https" => Box::new(secured(host, &request.trust, stream)?),
        _ => Box::new(stream),
    };
    // An HTTP/1.0 response is not chunked, and ends with the connection.
    let path = &url[Position::BeforePath..Position::AfterQuery];
    let mut text = format!("{} {path} HTTP/1.0\r\n", request.method);
    let is_given = |name: &str| {
        let mut headers_given = request
            .headers
            .iter()
            .filter_map(|line| line.split(':').next());
        headers_given.any(|other| other.eq_ignore_ascii_case(name))
    };
    if !is_given("host") {
        text.push_str(&format!("Host: {host}:{port}\r\n"));
    }
    if !is_given("user-agent") {
        text.push_str("User-Agent: mainstay-debug\r\n");
    }
    for header in &request.headers {
        text.push_str(&format!("{}\r\n", header.replace(['\r', '\n'], " ")));
    }
    if !request.body.is_empty() {
        text.push_str(&format!("Content-Length: {}\r\n", request.body.len()));
    }
    text.push_str("Connection: close\r\n\r\n");
    stream
        .write_all(text.as_bytes())
        .and_then(|()| stream.write_all(&request.body))
        .and_then(|()| stream.flush())
        .with_context(|| format!("ask {host}"))?;
    let mut reader = BufReader::new(stream);
    let head = Head::read(&mut reader).with_context(|| format!("the answer of {host}"))?;
    let length: Option<u64> = head
        .value("content-length")
        .and_then(|value| value.parse().ok());
    let has_none = request.method == "HEAD" || [204, 304].contains(&head.status);
    let body: Box<dyn Read> = match length {
        _ if has_none => Box::new(io::empty()),
        Some(length) => Box::new(reader.take(length)),
        None => Box::new(Closed(reader)),
    };
    Ok((head, body))
}

/// A response body that ends with the connection, even if the connection is not closed in order.
struct Closed<R>(R);

impl<R: Read> Read for Closed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            result => result,
        }
    }
}

impl Head {
    fn read(reader: &mut impl BufRead) -> Result<Self> {
        let mut lines = Vec::new();
        while lines.len() < LINES_MAX {
            let mut line = Vec::new();
            reader
                .by_ref()
                .take(LINE_MAX)
                .read_until(b'\n', &mut line)?;
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        let first = lines.first().context("it is empty")?;
        let status = first.split_whitespace().nth(1);
        let status = status.filter(|_| first.starts_with("HTTP/"));
        let status = status.and_then(|status| status.parse().ok());
        let status = status.with_context(|| format!("it is no HTTP: {first:?}"))?;
        Ok(Self { status, lines })
    }

    fn value(&self, name: &str) -> Option<&str> {
        let mut headers = self.lines.iter().filter_map(|line| line.split_once(':'));
        headers
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    }
}

fn secured(host: &str, trust: &Trust, stream: TcpStream) -> Result<BlockingStream<TcpStream>> {
    let config = match trust {
        Trust::Everybody => tls::insecure()?,
        Trust::File(file) => {
            let pem = fs::read(file).map_err(|error| {
                anyhow::anyhow!("{file}: {error}; name the authority's file, or check nothing (-k)")
            })?;
            let roots = Roots::none().with_pem(&pem);
            tls::trusting(roots.map_err(|error| anyhow::anyhow!("{file}: {error}"))?)?
        }
    };
    tls::over_blocking(stream, host, config).context("the name of the server")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart() {
        let path = |url: &Url| url[Position::BeforePath..Position::AfterQuery].to_owned();
        let url = page("https://web-0.web:8443/a/b?c#d").unwrap();
        assert_eq!(url.scheme(), "https");
        assert_eq!(
            (url.host_str(), url.port()),
            (Some("web-0.web"), Some(8443))
        );
        assert_eq!(path(&url), "/a/b?c");
        let plain = page("web").unwrap();
        assert_eq!(plain.port_or_known_default(), Some(80));
        assert_eq!(path(&plain), "/");
        let six = page("http://[::1]:8080").unwrap();
        assert_eq!((six.host_str(), six.port()), (Some("[::1]"), Some(8080)));
        let adjacent = |location: &str| redirect::target(&url, location).unwrap();
        assert_eq!(path(&adjacent("x")), "/a/x");
        assert_eq!(adjacent("http://other/").host_str(), Some("other"));
        for wrong in ["ftp://a", "http://", "http://a:x/", "http://a b/"] {
            assert!(page(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn heads_are_read() {
        let mut text = &b"HTTP/1.1 302 Found\r\nLocation: /there\r\n\r\nbody"[..];
        let head = Head::read(&mut text).unwrap();
        assert_eq!((head.status, head.value("LOCATION")), (302, Some("/there")));
        for wrong in ["", "SSH-2.0-x\r\n", "HTTP/1.1 x\r\n"] {
            assert!(Head::read(&mut wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
