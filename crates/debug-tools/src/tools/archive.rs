//! `tar`, with the options of `kubectl cp` and the usual options of users.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use crate::options::{Options, ToolOptions, misuse};
use crate::report::{ToolResult, complain};
use crate::shell::pattern::is_described;

const SUPPORTED: ToolOptions<'_> = ToolOptions {
    flags: "cxtzvmhpoPkO",
    valued: "fCX",
    long: &[
        ("create", 'c'),
        ("extract", 'x'),
        ("list", 't'),
        ("gzip", 'z'),
        ("verbose", 'v'),
        ("touch", 'm'),
        ("dereference", 'h'),
        ("preserve-permissions", 'p'),
        ("same-permissions", 'p'),
        ("no-same-permissions", 'k'),
        ("no-same-owner", 'o'),
        ("to-stdout", 'O'),
        ("file", 'f'),
        ("directory", 'C'),
        ("exclude", 'X'),
    ],
    ends_at_operand: false,
};

pub fn tar(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let options = Options::read(&dashed(arguments), SUPPORTED)?;
    let directory = PathBuf::from(options.value('C').unwrap_or("."));
    match (options.has('c'), options.has('x'), options.has('t')) {
        (true, false, false) => create(&options, &directory, out),
        (false, true, false) => extract(&options, &directory, out),
        (false, false, true) => list(&options, out),
        _ => Err(misuse("one of -c, -x and -t is needed")),
    }
}

/// Adds the dash to a first word of letters: `tar xf FILE`. Values then follow after all its letters.
fn dashed(arguments: &[String]) -> Vec<String> {
    let Some((first, rest)) = arguments.split_first() else {
        return Vec::new();
    };
    if first.starts_with('-') {
        return arguments.to_vec();
    }
    let mut rest = rest.iter().cloned();
    let mut words = Vec::new();
    for letter in first.chars() {
        words.push(format!("-{letter}"));
        if SUPPORTED.valued.contains(letter) {
            words.extend(rest.next());
        }
    }
    words.extend(rest);
    words
}

/// The archive's file; `None` for standard input and output.
fn file(options: &Options) -> Option<&str> {
    options.value('f').filter(|name| *name != "-")
}

fn create(options: &Options, directory: &Path, out: &mut dyn Write) -> ToolResult {
    let mut target: Box<dyn Write + '_> = match file(options) {
        Some(name) => Box::new(File::create(name).with_context(|| name.to_owned())?),
        None => Box::new(&mut *out),
    };
    let status = match options.has('z') {
        true => {
            let mut encoder = GzEncoder::new(&mut target, Compression::default());
            let status = pack(options, directory, &mut encoder)?;
            encoder.finish()?;
            status
        }
        false => pack(options, directory, &mut target)?,
    };
    target.flush()?;
    Ok(status)
}

fn pack(options: &Options, directory: &Path, target: &mut dyn Write) -> Result<u8> {
    let mut archive = tar::Builder::new(target);
    archive.follow_symlinks(options.has('h'));
    let mut status = 0;
    for name in options.some_operands()? {
        let inside = relative(Path::new(name));
        let mut waiting = vec![(directory.join(name), inside)];
        while let Some((path, inside)) = waiting.pop() {
            if is_excluded(options, &inside) {
                continue;
            }
            if options.has('v') {
                complain(&inside.display().to_string());
            }
            if let Err(error) = add(&mut archive, &path, &inside, options.has('h'), &mut waiting) {
                let error = anyhow::Error::from(error).context(path.display().to_string());
                // An unreadable file is skipped; an error of the archive ends the command.
                if is_lost(&error) {
                    return Err(error);
                }
                complain(&format!("tar: {error:#}"));
                status = 1;
            }
        }
    }
    archive.into_inner()?;
    Ok(status)
}

fn is_lost(error: &anyhow::Error) -> bool {
    let cause = error.root_cause().downcast_ref::<io::Error>();
    let kinds = [io::ErrorKind::BrokenPipe, io::ErrorKind::StorageFull];
    cause.is_some_and(|cause| kinds.contains(&cause.kind()))
}

fn is_excluded(options: &Options, inside: &Path) -> bool {
    let name = inside.file_name().unwrap_or_default().to_string_lossy();
    options.values('X').any(|pattern| {
        is_described(pattern, &name) || is_described(pattern, &inside.to_string_lossy())
    })
}

fn add(
    archive: &mut tar::Builder<&mut dyn Write>,
    path: &Path,
    inside: &Path,
    follows: bool,
    waiting: &mut Vec<(PathBuf, PathBuf)>,
) -> io::Result<()> {
    let facts = match follows {
        true => path.metadata()?,
        false => path.symlink_metadata()?,
    };
    if facts.is_dir() {
        let mut names: Vec<_> = std::fs::read_dir(path)?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<io::Result<_>>()?;
        names.sort_unstable();
        if !inside.as_os_str().is_empty() {
            archive.append_dir(inside, path)?;
        }
        let children = names.into_iter().rev();
        waiting.extend(children.map(|name| (path.join(&name), inside.join(&name))));
        return Ok(());
    }
    if facts.is_file() {
        let source = File::open(path)?;
        let length = facts.len();
        let mut header = tar::Header::new_gnu();
        header.set_metadata(&facts);
        // Exactly as many bytes as the header says, even if the file changes in the meantime.
        let padded = source.chain(io::repeat(0)).take(length);
        return archive.append_data(&mut header, inside, padded);
    }
    archive.append_path_with_name(path, inside)
}

/// A name without leading slashes and without `..`.
fn relative(path: &Path) -> PathBuf {
    path.components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect()
}

fn source(options: &Options) -> Result<Box<dyn Read>> {
    let plain: Box<dyn Read> = match file(options) {
        Some(name) => Box::new(File::open(name).with_context(|| name.to_owned())?),
        None => Box::new(io::stdin().lock()),
    };
    let mut plain = io::BufReader::new(plain);
    let start = io::BufRead::fill_buf(&mut plain)?;
    Ok(match start.starts_with(&[0x1f, 0x8b]) {
        true => Box::new(GzDecoder::new(plain)),
        false => Box::new(plain),
    })
}

/// Whether the user requested the entry.
fn is_requested(options: &Options, path: &Path) -> bool {
    let inside = relative(path);
    let mut requested = options
        .operands
        .iter()
        .map(|name| relative(Path::new(name)));
    !is_excluded(options, &inside)
        && (options.operands.is_empty() || requested.any(|name| inside.starts_with(name)))
}

fn extract(options: &Options, directory: &Path, out: &mut dyn Write) -> ToolResult {
    let mut archive = tar::Archive::new(source(options)?);
    let is_root = rustix::process::geteuid().is_root();
    archive.set_preserve_permissions(options.has('p') || (is_root && !options.has('k')));
    archive.set_preserve_ownerships(is_root && !options.has('o'));
    archive.set_preserve_mtime(!options.has('m'));
    // Permissions of directories are set last, because a directory without write permission could not be
    // filled.
    let mut directories = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        if !is_requested(options, &path) {
            continue;
        }
        if options.has('v') {
            complain(&path.display().to_string());
        }
        if options.has('O') {
            io::copy(&mut entry, out)?;
        } else if entry.header().entry_type().is_dir() {
            directories.push(entry);
        } else {
            unpack(&mut entry, &path, directory)?;
        }
    }
    for mut entry in directories.into_iter().rev() {
        let path = entry.path()?.into_owned();
        unpack(&mut entry, &path, directory)?;
    }
    Ok(0)
}

fn unpack<R: Read>(entry: &mut tar::Entry<'_, R>, path: &Path, directory: &Path) -> Result<()> {
    let path_text = || path.display().to_string();
    match entry.unpack_in(directory).with_context(path_text)? {
        true => Ok(()),
        false => Err(anyhow::anyhow!("it leads out of the directory")).with_context(path_text),
    }
}

fn list(options: &Options, out: &mut dyn Write) -> ToolResult {
    let mut archive = tar::Archive::new(source(options)?);
    for entry in archive.entries()? {
        let entry = entry?;
        let path = entry.path()?.into_owned();
        if !is_requested(options, &path) {
            continue;
        }
        let header = entry.header();
        if options.has('v') {
            let (mode, size) = (header.mode()?, entry.size());
            let owner = format!("{}/{}", header.uid()?, header.gid()?);
            write!(out, "{mode:04o} {owner:>11} {size:>10} ")?;
        }
        writeln!(out, "{}", path.display())?;
    }
    Ok(0)
}
