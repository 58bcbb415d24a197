//! Tools that search in text and in directories.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use regex::bytes::RegexBuilder;

use super::text::each_line;
use crate::options::{Options, misuse, with_values};
use crate::report::{ToolResult, complain, complain_as_tool};
use crate::shell::pattern::is_described;

/// The exit statuses of `grep`.
const MATCH: u8 = 0;
const NOT_FOUND: u8 = 1;
const TROUBLE: u8 = 2;

/// The regular expression, and the names of the files, from the operands of `grep`.
fn expression_and_names(options: &Options) -> anyhow::Result<(regex::bytes::Regex, Vec<String>)> {
    let mut operands = options.operands.iter();
    let pattern = match options.value('e') {
        Some(pattern) => pattern,
        None => operands
            .next()
            .ok_or_else(|| misuse("the pattern is missing"))?,
    };
    let pattern = match (options.has('F'), options.has('E')) {
        (true, _) => regex::escape(pattern),
        (false, true) => pattern.to_owned(),
        (false, false) => extended(pattern),
    };
    let pattern = match options.has('w') {
        true => format!(r"\b(?:{pattern})\b"),
        false => pattern,
    };
    let expression = RegexBuilder::new(&pattern)
        .case_insensitive(options.has('i'))
        .build()
        .map_err(|error| misuse(error.to_string()))?;
    Ok((expression, operands.cloned().collect()))
}

pub fn grep(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, with_values("EFcilnqrRvhHwo", "e"))?;
    let (expression, mut names) = expression_and_names(&options)?;
    let recursive = options.has('r') || options.has('R');
    if names.is_empty() {
        names.push(if recursive { "." } else { "-" }.to_owned());
    }
    if recursive {
        let mut files = Vec::new();
        for name in &names {
            collect(Path::new(name), usize::MAX, &mut |path, _| {
                if path.is_file() {
                    files.push(path.display().to_string());
                }
                Ok(())
            })?;
        }
        names = files;
    }
    let shows_names = (names.len() > 1 || recursive || options.has('H')) && !options.has('h');
    let mut status = NOT_FOUND;
    let mut has_trouble = false;
    for name in &names {
        let (mut number, mut count) = (0_u64, 0_u64);
        let result = each_line(name, |line| {
            number += 1;
            if expression.is_match(line) == options.has('v') {
                return Ok(());
            }
            count += 1;
            if ['q', 'c', 'l'].iter().any(|letter| options.has(*letter)) {
                return Ok(());
            }
            let mut start = String::new();
            if shows_names {
                start.push_str(&format!("{name}:"));
            }
            if options.has('n') {
                start.push_str(&format!("{number}:"));
            }
            let matching: Vec<&[u8]> = match options.has('o') && !options.has('v') {
                true => expression.find_iter(line).map(|m| m.as_bytes()).collect(),
                false => vec![line],
            };
            for text in matching {
                out.write_all(start.as_bytes())?;
                out.write_all(text)?;
                out.write_all(b"\n")?;
            }
            Ok(())
        });
        if let Err(error) = result.with_context(|| name.clone()) {
            if error.root_cause().is::<std::io::Error>() && out.flush().is_err() {
                return Err(error);
            }
            complain(&format!("grep: {error:#}"));
            has_trouble = true;
        }
        if count > 0 {
            status = MATCH;
        }
        if options.has('q') && status == MATCH {
            return Ok(MATCH);
        }
        match (options.has('l'), options.has('c'), shows_names) {
            (true, ..) if count > 0 => writeln!(out, "{name}")?,
            (false, true, true) => writeln!(out, "{name}:{count}")?,
            (false, true, false) => writeln!(out, "{count}")?,
            _ => {}
        }
    }
    Ok(if has_trouble { TROUBLE } else { status })
}

/// Converts a basic regular expression to an extended one: operators with and without a backslash are
/// exchanged.
fn extended(basic: &str) -> String {
    let mut text = String::new();
    let mut signs = basic.chars();
    while let Some(sign) = signs.next() {
        match sign {
            '\\' => match signs.next() {
                Some(next) if "|(){}+?".contains(next) => text.push(next),
                Some(next) => {
                    text.push('\\');
                    text.push(next);
                }
                None => text.push_str("\\\\"),
            },
            '|' | '(' | ')' | '{' | '}' | '+' | '?' => {
                text.push('\\');
                text.push(sign);
            }
            '*' if text.is_empty() => text.push_str("\\*"),
            _ => text.push(sign),
        }
    }
    text
}

type Visit<'a> = &'a mut dyn FnMut(&Path, usize) -> Result<()>;

/// Visits a tree, each directory before its entries; symbolic links are not followed.
fn collect(top: &Path, depth_max: usize, visit: Visit<'_>) -> Result<()> {
    let mut waiting = vec![(top.to_owned(), 0)];
    while let Some((path, depth)) = waiting.pop() {
        visit(&path, depth)?;
        if depth >= depth_max || !path.is_dir() || (path.is_symlink() && depth > 0) {
            continue;
        }
        match std::fs::read_dir(&path) {
            Ok(entries) => {
                let mut inside: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
                inside.sort_unstable();
                waiting.extend(inside.into_iter().rev().map(|path| (path, depth + 1)));
            }
            Err(error) => complain_as_tool(&format!("{}: {error}", path.display())),
        }
    }
    Ok(())
}

pub fn find(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let first = arguments.iter().position(|word| word.starts_with('-'));
    let (tops, conditions) = arguments.split_at(first.unwrap_or(arguments.len()));
    let (mut name, mut kind, mut depth_max) = (None, None, usize::MAX);
    for pair in conditions.chunks(2) {
        match pair {
            [option, value] if option == "-name" => name = Some(value),
            [option, value] if option == "-type" => kind = Some(value.as_str()),
            [option, value] if option == "-maxdepth" => {
                depth_max = value.parse().map_err(|_| misuse("a depth is a number"))?;
            }
            _ => return Err(misuse(format!("{:?} is not understood", pair.join(" ")))),
        }
    }
    let current = [".".to_owned()];
    let tops = if tops.is_empty() { &current[..] } else { tops };
    for top in tops {
        if !Path::new(top).exists() && !Path::new(top).is_symlink() {
            bail!("{top}: there is no such file");
        }
        collect(Path::new(top), depth_max, &mut |path, _| {
            let file = path.file_name().unwrap_or(path.as_os_str());
            let is_named =
                name.is_none_or(|pattern| is_described(pattern, &file.to_string_lossy()));
            let is_kind = match kind {
                None => true,
                Some("l") => path.is_symlink(),
                Some("d") => path.is_dir() && !path.is_symlink(),
                Some("f") => path.is_file() && !path.is_symlink(),
                Some(_) => false,
            };
            if is_named && is_kind {
                writeln!(out, "{}", path.display())?;
            }
            Ok(())
        })?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_expressions_become_extended_ones() {
        for (basic, expected) in [
            ("a+b", r"a\+b"),
            (r"a\|b", "a|b"),
            (r"\(a\)*", "(a)*"),
            ("*a", r"\*a"),
            (r"a\.b", r"a\.b"),
        ] {
            assert_eq!(extended(basic), expected, "{basic}");
        }
    }
}
