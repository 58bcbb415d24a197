//! Tools for files and directories.

use std::fs::{self, Metadata};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};

use crate::options::{Options, flags, misuse};
use crate::report::{ToolResult, each};

/// A size with a unit, such as `1.5M`.
pub fn for_people(bytes: u64) -> String {
    let mut size = bytes as f64;
    for unit in ["", "K", "M", "G", "T"] {
        if size < 1024.0 {
            return match unit.is_empty() || size >= 10.0 {
                true => format!("{size:.0}{unit}"),
                false => format!("{size:.1}{unit}"),
            };
        }
        size /= 1024.0;
    }
    format!("{size:.1}P")
}

fn mode_text(facts: &Metadata) -> String {
    let kind = facts.file_type();
    let kind = match () {
        () if kind.is_dir() => 'd',
        () if kind.is_symlink() => 'l',
        () if kind.is_block_device() => 'b',
        () if kind.is_char_device() => 'c',
        () if kind.is_fifo() => 'p',
        () if kind.is_socket() => 's',
        () => '-',
    };
    let mode = facts.mode();
    let mut text = String::from(kind);
    for (shift, special, sign) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => sign,
            (false, true) => sign.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

fn time_text(facts: &Metadata) -> String {
    let time = jiff::Timestamp::from_second(facts.mtime());
    time.map(|time| time.strftime("%Y-%m-%d %H:%M").to_string())
        .unwrap_or_default()
}

fn names_in(directory: &Path, shows_hidden: bool) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if shows_hidden || !name.starts_with('.') {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

pub fn ls(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, flags("1adhlRAFnt"))?;
    let mut paths = options.operands.clone();
    if paths.is_empty() {
        paths.push(".".to_owned());
    }
    let shows_titles = paths.len() > 1 || options.has('R');
    let is_directory = |path: &String| !options.has('d') && Path::new(path).is_dir();
    let (directories, files): (Vec<String>, Vec<String>) =
        paths.into_iter().partition(is_directory);
    let mut existing = Vec::new();
    let mut status = each(&files, |path| {
        fs::symlink_metadata(path)?;
        existing.push(path.to_owned());
        Ok(())
    })?;
    list(Path::new(""), &existing, &options, out)?;
    let mut is_first = existing.is_empty();
    let mut waiting: Vec<String> = directories.into_iter().rev().collect();
    while let Some(directory) = waiting.pop() {
        let current = [directory];
        status |= each(&current, |directory| {
            if shows_titles {
                let space = if is_first { "" } else { "\n" };
                writeln!(out, "{space}{directory}:")?;
            }
            is_first = false;
            let top = Path::new(directory);
            let names = names_in(top, options.has('a') || options.has('A'))?;
            list(top, &names, &options, out)?;
            if options.has('R') {
                let inside = names.iter().rev().map(|name| top.join(name));
                let inside = inside.filter(|path| path.is_dir() && !path.is_symlink());
                waiting.extend(inside.map(|path| path.display().to_string()));
            }
            Ok(())
        })?;
    }
    Ok(status)
}

fn list(directory: &Path, names: &[String], options: &Options, out: &mut dyn Write) -> Result<()> {
    if !options.has('l') && !options.has('n') {
        return match (options.has('1'), terminal_width()) {
            (false, Some(width)) => columns(names, width, out),
            _ => {
                for name in names {
                    writeln!(out, "{name}")?;
                }
                Ok(())
            }
        };
    }
    for name in names {
        let path = directory.join(name);
        // The file may have been removed since its directory was read.
        let Ok(facts) = fs::symlink_metadata(&path) else {
            continue;
        };
        let size = match options.has('h') {
            true => for_people(facts.len()),
            false => facts.len().to_string(),
        };
        let target = match fs::read_link(&path) {
            Ok(target) => format!(" -> {}", target.display()),
            Err(_) => String::new(),
        };
        writeln!(
            out,
            "{} {:3} {:8} {:8} {size:>10} {} {name}{target}",
            mode_text(&facts),
            facts.nlink(),
            facts.uid(),
            facts.gid(),
            time_text(&facts)
        )?;
    }
    Ok(())
}

fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stdout()).ok()?;
    Some(usize::from(size.ws_col).max(20))
}

fn columns(names: &[String], width: usize, out: &mut dyn Write) -> Result<()> {
    let Some(longest) = names.iter().map(|name| name.chars().count() + 2).max() else {
        return Ok(());
    };
    let per_line = (width / longest).max(1);
    let lines = names.len().div_ceil(per_line);
    for line in 0..lines {
        let row: String = names
            .iter()
            .skip(line)
            .step_by(lines)
            .map(|name| format!("{name:longest$}"))
            .collect();
        writeln!(out, "{}", row.trim_end())?;
    }
    Ok(())
}

/// The pairs of source and destination: files into a directory, or one file to a new name.
fn pairs(operands: &[String]) -> Result<Vec<(PathBuf, PathBuf)>> {
    let Some((to, from)) = operands.split_last().filter(|(_, from)| !from.is_empty()) else {
        return Err(misuse("two names are needed"));
    };
    let to = Path::new(to);
    if !to.is_dir() && from.len() > 1 {
        bail!("{} is no directory", to.display());
    }
    Ok(from
        .iter()
        .map(|from| {
            let from = PathBuf::from(from);
            let target = match (to.is_dir(), from.file_name()) {
                (true, Some(name)) => to.join(name),
                _ => to.to_owned(),
            };
            (from, target)
        })
        .collect())
}

pub fn cp(arguments: &[String], _: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, flags("rRapf"))?;
    let recursive = ['r', 'R', 'a'].iter().any(|letter| options.has(*letter));
    for (from, to) in pairs(&options.operands)? {
        if to.starts_with(&from) && from.is_dir() {
            bail!("{} cannot be copied into itself", from.display());
        }
        copy(&from, &to, recursive).with_context(|| from.display().to_string())?;
    }
    Ok(0)
}

fn copy(from: &Path, to: &Path, recursive: bool) -> Result<()> {
    let facts = match recursive {
        true => fs::symlink_metadata(from)?,
        false => fs::metadata(from)?,
    };
    if facts.is_symlink() {
        return Ok(symlink(fs::read_link(from)?, to)?);
    }
    if !facts.is_dir() {
        fs::copy(from, to)?;
        return Ok(());
    }
    if !recursive {
        bail!("it is a directory: -r copies it");
    }
    if !to.is_dir() {
        fs::create_dir(to).with_context(|| to.display().to_string())?;
    }
    for name in names_in(from, true)? {
        copy(&from.join(&name), &to.join(&name), true).with_context(|| name)?;
    }
    Ok(())
}

pub fn mv(arguments: &[String], _: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, flags("f"))?;
    for (from, to) in pairs(&options.operands)? {
        let path_text = || from.display().to_string();
        match fs::rename(&from, &to) {
            Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {
                copy(&from, &to, true).with_context(path_text)?;
                remove(&from, true).with_context(path_text)?;
            }
            result => result.with_context(path_text)?,
        }
    }
    Ok(0)
}

fn remove(path: &Path, recursive: bool) -> Result<()> {
    let facts = fs::symlink_metadata(path)?;
    match (facts.is_dir(), recursive) {
        (true, true) => fs::remove_dir_all(path)?,
        (true, false) => bail!("it is a directory: -r removes it with all inside"),
        (false, _) => fs::remove_file(path)?,
    }
    Ok(())
}

pub fn rm(arguments: &[String], _: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, flags("rRf"))?;
    let recursive = options.has('r') || options.has('R');
    if options.operands.is_empty() && !options.has('f') {
        options.some_operands()?;
    }
    each(&options.operands, |path| {
        let path = Path::new(path);
        if options.has('f') && fs::symlink_metadata(path).is_err() {
            return Ok(());
        }
        remove(path, recursive)
    })
}

pub fn mkdir(arguments: &[String], _: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, flags("p"))?;
    each(options.some_operands()?, |path| {
        match options.has('p') {
            true => fs::create_dir_all(path)?,
            false => fs::create_dir(path)?,
        }
        Ok(())
    })
}

pub fn rmdir(arguments: &[String], _: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, flags(""))?;
    each(options.some_operands()?, |path| Ok(fs::remove_dir(path)?))
}

pub fn ln(arguments: &[String], _: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, flags("sfn"))?;
    for (from, to) in pairs(&options.operands)? {
        if options.has('f') && fs::symlink_metadata(&to).is_ok() {
            remove(&to, false)?;
        }
        let linked = match options.has('s') {
            true => symlink(&from, &to),
            false => fs::hard_link(&from, &to),
        };
        linked.with_context(|| to.display().to_string())?;
    }
    Ok(0)
}

pub fn touch(arguments: &[String], _: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, flags("c"))?;
    each(options.some_operands()?, |path| {
        let file = fs::File::options().create(true).append(true).open(path)?;
        Ok(file.set_modified(SystemTime::now())?)
    })
}

pub fn chmod(arguments: &[String], _: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, flags("R"))?;
    let (mode, paths) = match options.operands.split_first() {
        Some((mode, paths)) if !paths.is_empty() => (mode, paths),
        _ => return Err(misuse("a mode and a file are needed")),
    };
    let wrong = |_| misuse(format!("{mode:?} is no octal mode, as 644 is"));
    let mode = u32::from_str_radix(mode, 8).map_err(wrong)?;
    each(paths, |path| {
        change_mode(Path::new(path), mode, options.has('R'))
    })
}

fn change_mode(path: &Path, mode: u32, recursive: bool) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    if recursive && path.is_dir() {
        for name in names_in(path, true)? {
            let inside = path.join(name);
            if !inside.is_symlink() {
                change_mode(&inside, mode, true).with_context(|| inside.display().to_string())?;
            }
        }
    }
    Ok(())
}

pub fn stat(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, flags("L"))?;
    each(options.some_operands()?, |path| {
        let facts = fs::symlink_metadata(path)?;
        writeln!(
            out,
            "{path}: {} bytes, {} blocks, inode {}, {} links, mode {:04o} {}, user {}, group {}, changed {}",
            facts.len(),
            facts.blocks(),
            facts.ino(),
            facts.nlink(),
            facts.mode() & 0o7777,
            mode_text(&facts),
            facts.uid(),
            facts.gid(),
            time_text(&facts)
        )?;
        Ok(())
    })
}

pub fn du(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, flags("hsk"))?;
    let mut paths = options.operands.clone();
    if paths.is_empty() {
        paths.push(".".to_owned());
    }
    each(&paths, |path| {
        let mut directories = Vec::new();
        let bytes = disk_usage(Path::new(path), &mut directories)?;
        directories.push((PathBuf::from(path), bytes));
        let skipped = if options.has('s') {
            directories.len() - 1
        } else {
            0
        };
        for (path, bytes) in directories.iter().skip(skipped) {
            let size = match options.has('h') {
                true => for_people(*bytes),
                false => bytes.div_ceil(1024).to_string(),
            };
            writeln!(out, "{size}\t{}", path.display())?;
        }
        Ok(())
    })
}

/// The disk usage of a tree in bytes; adds each directory to the list.
fn disk_usage(path: &Path, directories: &mut Vec<(PathBuf, u64)>) -> Result<u64> {
    let facts = fs::symlink_metadata(path)?;
    let mut bytes = facts.blocks() * 512;
    if facts.is_dir() {
        for name in names_in(path, true)? {
            let inside = path.join(name);
            // A file that was removed in the meantime has no size.
            let size = disk_usage(&inside, directories).unwrap_or(0);
            if inside.is_dir() && !inside.is_symlink() {
                directories.push((inside, size));
            }
            bytes += size;
        }
    }
    Ok(bytes)
}

pub fn readlink(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, flags("f"))?;
    each(options.some_operands()?, |path| {
        let target = match options.has('f') {
            true => fs::canonicalize(path)?,
            false => fs::read_link(path)?,
        };
        writeln!(out, "{}", target.display())?;
        Ok(())
    })
}

pub fn pwd(_: &[String], out: &mut dyn Write) -> ToolResult {
    writeln!(out, "{}", std::env::current_dir()?.display())?;
    Ok(0)
}

pub fn basename(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, flags(""))?;
    let path = options.some_operands()?.first().map_or("", String::as_str);
    let path = path.trim_end_matches('/');
    let name = path.rsplit('/').next().unwrap_or(path);
    let suffix = options.operands.get(1).map_or("", String::as_str);
    let name = match name.strip_suffix(suffix) {
        Some(stem) if !stem.is_empty() => stem,
        _ => name,
    };
    writeln!(out, "{}", if name.is_empty() { "/" } else { name })?;
    Ok(0)
}

pub fn dirname(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, flags(""))?;
    each(options.some_operands()?, |path| {
        let directory = match path.trim_end_matches('/').rsplit_once('/') {
            Some(("", _)) => "/",
            Some((directory, _)) => directory,
            None if path.starts_with('/') => "/",
            None => ".",
        };
        writeln!(out, "{directory}")?;
        Ok(())
    })
}
