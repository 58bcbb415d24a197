//! All tools; each runs as a separate process.

mod archive;
mod files;
mod http;
mod machine;
mod network;
pub mod printing;
mod processes;
mod search;
mod text;

use std::io::Write;

use crate::report::ToolResult;

#[derive(Clone, Copy)]
pub struct Tool {
    pub name: &'static str,
    /// The arguments for the usage message.
    pub usage: &'static str,
    pub run: fn(&[String], &mut dyn Write) -> ToolResult,
}

const fn tool(
    name: &'static str,
    usage: &'static str,
    run: fn(&[String], &mut dyn Write) -> ToolResult,
) -> Tool {
    Tool { name, usage, run }
}

/// All tools.
pub const TOOLS: &[Tool] = &[
    tool("[", "CONDITION ]", |a, _| text::test("[", a)),
    tool("basename", "PATH [SUFFIX]", files::basename),
    tool("cat", "[FILE…]", text::cat),
    tool("chmod", "[-R] OCTAL-MODE FILE…", files::chmod),
    tool("cp", "[-r] FROM… TO", files::cp),
    tool(
        "curl",
        "[-fiksLvI] [-o FILE] [-H HEADER] [-X METHOD] [-d DATA] [-m SECONDS] [--cacert FILE] URL",
        http::curl,
    ),
    tool("cut", "(-d SIGN -f FIELDS | -c PLACES) [FILE…]", text::cut),
    tool("date", "[-u] [+FORMAT]", machine::date),
    tool("df", "[-hk] [PATH…]", machine::df),
    tool("dirname", "PATH", files::dirname),
    tool("du", "[-hsk] [PATH…]", files::du),
    tool("echo", "[-ne] [WORD…]", printing::echo_tool),
    tool(
        "env",
        "[-i] [NAME=VALUE…] [PROGRAM [ARGUMENT…]]",
        processes::env,
    ),
    tool("false", "", |_, _| Ok(1)),
    tool(
        "find",
        "[PATH…] [-name PATTERN] [-type f|d|l] [-maxdepth N]",
        search::find,
    ),
    tool("free", "", machine::free),
    tool("grep", "[-EFcilnqrv] PATTERN [FILE…]", search::grep),
    tool("head", "[-n LINES | -c BYTES] [FILE…]", text::head),
    tool("hostname", "[-f | -i]", machine::hostname),
    tool("id", "[-u | -g]", processes::id),
    tool("ip", "addr | route", network::ip),
    tool("kill", "[-SIGNAL] ID…", processes::kill),
    tool("ln", "[-s] [-f] TARGET NAME", files::ln),
    tool("ls", "[-1adhlR] [PATH…]", files::ls),
    tool("mkdir", "[-p] PATH…", files::mkdir),
    tool("mount", "", machine::mount),
    tool("mv", "FROM… TO", files::mv),
    tool("nc", "[-z] [-l] [-w SECONDS] [HOST] PORT", network::nc),
    tool("netstat", "[-tln]", network::netstat),
    tool("nslookup", "NAME-OR-ADDRESS [SERVER]", network::nslookup),
    tool("printenv", "[NAME…]", processes::printenv),
    tool("printf", "FORMAT [WORD…]", printing::printf_tool),
    tool("ps", "", processes::ps),
    tool("pwd", "", files::pwd),
    tool("readlink", "[-f] PATH", files::readlink),
    tool("rm", "[-rf] PATH…", files::rm),
    tool("rmdir", "PATH…", files::rmdir),
    tool("seq", "[FIRST] LAST", text::seq),
    tool("sha256sum", "[FILE…]", text::sha256sum),
    tool("sleep", "SECONDS…", machine::sleep),
    tool("sort", "[-nru] [FILE…]", text::sort),
    tool("stat", "PATH…", files::stat),
    tool("sync", "", machine::sync),
    tool("tail", "[-n LINES | -c BYTES] [-f] [FILE…]", text::tail),
    tool(
        "tar",
        "(-c | -x | -t) [-zvmh] [-f FILE] [-C DIRECTORY] [PATH…]",
        archive::tar,
    ),
    tool("tee", "[-a] [FILE…]", text::tee),
    tool("test", "CONDITION", |a, _| text::test("test", a)),
    tool("touch", "FILE…", files::touch),
    tool("tr", "[-d] SIGNS [SIGNS]", text::tr),
    tool("true", "", |_, _| Ok(0)),
    tool("uname", "[-amnrs]", machine::uname),
    tool("uniq", "[-c] [FILE]", text::uniq),
    tool("uptime", "", machine::uptime),
    tool("wc", "[-clw] [FILE…]", text::wc),
    tool(
        "wget",
        "[-qS] [-O FILE] [-T SECONDS] [--header HEADER] [--post-data DATA] [--ca-certificate FILE] URL",
        http::wget,
    ),
    tool("which", "NAME…", processes::which),
    tool("whoami", "", processes::whoami),
    tool(
        "xargs",
        "[-n COUNT] [PROGRAM [ARGUMENT…]]",
        processes::xargs,
    ),
];

pub fn find(name: &str) -> Option<&'static Tool> {
    TOOLS.iter().find(|tool| tool.name == name)
}
