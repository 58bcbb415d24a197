//! Tools for text and bytes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::time::Duration;

use anyhow::{Context, Result};

use super::printing::unescaped;
use crate::options::{Options, flags, misuse, with_values};
use crate::report::{ToolResult, each};
use crate::shell::condition;

/// The polling interval of `tail -f`.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);

/// Opens a file, or standard input for `-`.
pub fn open(name: &str) -> Result<Box<dyn BufRead>> {
    Ok(match name {
        "-" => Box::new(io::stdin().lock()),
        _ => Box::new(BufReader::new(File::open(name)?)),
    })
}

/// The operands; without operands, standard input.
fn sources(options: &Options) -> Vec<String> {
    match options.operands.is_empty() {
        true => vec!["-".to_owned()],
        false => options.operands.clone(),
    }
}

/// The lines of all files, as text.
fn lines(names: &[String]) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for name in names {
        each_line(name, |line| {
            lines.push(String::from_utf8_lossy(line).into_owned());
            Ok(())
        })
        .with_context(|| name.clone())?;
    }
    Ok(lines)
}

/// Calls a function with each line of a file, without the newline.
pub fn each_line(name: &str, mut work: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut file = open(name)?;
    let mut line = Vec::new();
    while file.read_until(b'\n', &mut line)? > 0 {
        if line.ends_with(b"\n") {
            line.pop();
        }
        work(&line)?;
        line.clear();
    }
    Ok(())
}

pub fn test(name: &str, arguments: &[String]) -> ToolResult {
    let directory = std::env::current_dir().unwrap_or_default();
    let holds = condition::command(name, arguments, &directory)
        .map_err(|error| misuse(error.to_string()))?;
    Ok(u8::from(!holds))
}

pub fn cat(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, flags("uv"))?;
    each(&sources(&options), |name| {
        io::copy(&mut open(name)?, out)?;
        Ok(())
    })
}

pub fn head(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let arguments = with_number(arguments);
    let options = Options::read(&arguments, with_values("q", "nc"))?;
    let bytes: Option<u64> = options.number('c')?;
    let lines = options.number('n')?.unwrap_or(10_u64);
    each(&sources(&options), |name| {
        let mut file = open(name)?;
        if let Some(bytes) = bytes {
            io::copy(&mut file.take(bytes), out)?;
            return Ok(());
        }
        let mut line = Vec::new();
        for _ in 0..lines {
            line.clear();
            if file.read_until(b'\n', &mut line)? == 0 {
                break;
            }
            out.write_all(&line)?;
        }
        Ok(())
    })
}

/// Converts `-5` to `-n 5`.
fn with_number(arguments: &[String]) -> Vec<String> {
    let mut words = arguments.to_vec();
    if let Some(first) = words.first_mut() {
        let digits = first.strip_prefix('-').unwrap_or_default();
        if !digits.is_empty() && digits.chars().all(|digit| digit.is_ascii_digit()) {
            *first = format!("-n{digits}");
        }
    }
    words
}

pub fn tail(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let arguments = with_number(arguments);
    let options = Options::read(&arguments, with_values("fFq", "nc"))?;
    let names = sources(&options);
    let follows = (options.has('f') || options.has('F')) && names != ["-"];
    let status = each(&names, |name| match options.value('c') {
        Some(bytes) => last_bytes(name, bytes, out),
        None => last_lines(name, options.value('n').unwrap_or("10"), out),
    })?;
    match names.last() {
        Some(name) if follows && status == 0 => follow(name, out),
        _ => Ok(status),
    }
}

/// A count from the end; with `+`, from the start.
fn count(text: &str) -> Result<(bool, usize)> {
    let from_start = text.starts_with('+');
    let digits = text.trim_start_matches(['+', '-']);
    let wrong = |_| misuse(format!("{text:?} is no number"));
    Ok((from_start, digits.parse().map_err(wrong)?))
}

fn last_bytes(name: &str, text: &str, out: &mut dyn Write) -> Result<()> {
    let (from_start, count) = count(text)?;
    let mut file = open(name)?;
    if from_start {
        let skipped = count.saturating_sub(1) as u64;
        io::copy(&mut file.by_ref().take(skipped), &mut io::sink())?;
        io::copy(&mut file, out)?;
        return Ok(());
    }
    let mut tail_bytes = VecDeque::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        tail_bytes.extend(buffer.iter().take(length));
        let surplus = tail_bytes.len().saturating_sub(count);
        tail_bytes.drain(..surplus);
    }
    out.write_all(tail_bytes.make_contiguous())?;
    Ok(())
}

fn last_lines(name: &str, text: &str, out: &mut dyn Write) -> Result<()> {
    let (from_start, count) = count(text)?;
    let mut file = open(name)?;
    let mut tail_bytes = VecDeque::new();
    let mut number = 0;
    loop {
        let mut line = Vec::new();
        if file.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        number += 1;
        match from_start {
            true if number >= count => out.write_all(&line)?,
            true => {}
            false => {
                tail_bytes.push_back(line);
                if tail_bytes.len() > count {
                    tail_bytes.pop_front();
                }
            }
        }
    }
    for line in tail_bytes {
        out.write_all(&line)?;
    }
    Ok(())
}

/// Prints data appended to a file, until the output is closed.
fn follow(name: &str, out: &mut dyn Write) -> ToolResult {
    let mut file = File::open(name)?;
    file.seek(SeekFrom::End(0))?;
    loop {
        io::copy(&mut file, out)?;
        out.flush()?;
        std::thread::sleep(FOLLOW_EVERY);
        if file.metadata()?.len() < file.stream_position()? {
            // The file was truncated, so it is read from its start.
            file.rewind()?;
        }
    }
}

pub fn wc(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, flags("clwm"))?;
    let shows = |letter| options.has(letter) || !"clw".chars().any(|letter| options.has(letter));
    each(&sources(&options), |name| {
        let (mut lines, mut words, mut bytes) = (0_u64, 0_u64, 0_u64);
        let mut in_word = false;
        let mut file = open(name)?;
        loop {
            let buffer = file.fill_buf()?;
            if buffer.is_empty() {
                break;
            }
            for byte in buffer {
                lines += u64::from(*byte == b'\n');
                let is_word = !byte.is_ascii_whitespace();
                words += u64::from(is_word && !in_word);
                in_word = is_word;
            }
            let length = buffer.len();
            bytes += length as u64;
            file.consume(length);
        }
        let selected = [('l', lines), ('w', words), ('c', bytes)].into_iter();
        let selected = selected.filter(|(letter, _)| shows(*letter));
        let mut columns: Vec<String> = selected.map(|(_, count)| count.to_string()).collect();
        if name != "-" {
            columns.push(name.to_owned());
        }
        writeln!(out, "{}", columns.join(" "))?;
        Ok(())
    })
}

pub fn sort(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, flags("nru"))?;
    let mut lines = lines(&sources(&options))?;
    lines.sort_unstable();
    if options.has('n') {
        let value = |line: &String| {
            let line = line.trim_start();
            let end = line.find(|sign: char| !sign.is_ascii_digit() && !"-.".contains(sign));
            line[..end.unwrap_or(line.len())].parse().unwrap_or(0.0)
        };
        lines.sort_by(|left, right| f64::total_cmp(&value(left), &value(right)));
    }
    if options.has('r') {
        lines.reverse();
    }
    if options.has('u') {
        lines.dedup();
    }
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(0)
}

pub fn uniq(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, flags("c"))?;
    let lines = lines(&sources(&options))?;
    for group in lines.chunk_by(|left, right| left == right) {
        let line = group.first().map_or("", String::as_str);
        match options.has('c') {
            true => writeln!(out, "{:7} {line}", group.len())?,
            false => writeln!(out, "{line}")?,
        }
    }
    Ok(0)
}

pub fn cut(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, with_values("s", "dfcb"))?;
    let by_field = options.value('f');
    let ranges_selected = by_field.or(options.value('c')).or(options.value('b'));
    let ranges_selected = ranges(ranges_selected.ok_or_else(|| misuse("-f or -c is missing"))?)?;
    let is_selected = |at: usize| {
        ranges_selected
            .iter()
            .any(|(from, to)| (*from..=*to).contains(&at))
    };
    let separator = options.value('d').unwrap_or("\t");
    each(&sources(&options), |name| {
        each_line(name, |line| {
            let line = String::from_utf8_lossy(line);
            if by_field.is_none() {
                let signs = line.chars().enumerate();
                let tail_bytes: String = signs
                    .filter(|(at, _)| is_selected(at + 1))
                    .map(|(_, sign)| sign)
                    .collect();
                writeln!(out, "{tail_bytes}")?;
                return Ok(());
            }
            if !line.contains(separator) {
                writeln!(out, "{line}")?;
                return Ok(());
            }
            let fields = line.split(separator).enumerate();
            let tail_bytes: Vec<&str> = fields
                .filter(|(at, _)| is_selected(at + 1))
                .map(|(_, field)| field)
                .collect();
            writeln!(out, "{}", tail_bytes.join(separator))?;
            Ok(())
        })
    })
}

/// Parses `1,3-5,7-`.
fn ranges(text: &str) -> Result<Vec<(usize, usize)>> {
    let number = |text: &str, none: usize| match text {
        "" => Ok(none),
        _ => text
            .parse()
            .map_err(|_| misuse(format!("{text:?} is no number"))),
    };
    text.split(',')
        .map(|part| match part.split_once('-') {
            Some((from, to)) => Ok((number(from, 1)?, number(to, usize::MAX)?)),
            None => number(part, 1).map(|at| (at, at)),
        })
        .collect()
}

pub fn tr(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, flags("ds"))?;
    let sets: Vec<Vec<u8>> = options.operands.iter().map(|set| bytes_of(set)).collect();
    let (from, to) = match (&sets[..], options.has('d')) {
        ([from], true) => (from, None),
        ([from, to], false) if !to.is_empty() => (from, Some(to)),
        _ => return Err(misuse("two sets of signs are needed, or one with -d")),
    };
    let mut bytes = Vec::new();
    io::stdin().lock().read_to_end(&mut bytes)?;
    let changed =
        bytes.iter().filter_map(
            |byte| match (from.iter().position(|mapped| mapped == byte), to) {
                (None, _) => Some(*byte),
                (Some(_), None) => None,
                (Some(at), Some(to)) => to.get(at).or(to.last()).copied(),
            },
        );
    out.write_all(&changed.collect::<Vec<u8>>())?;
    Ok(0)
}

/// The bytes of a set such as `a-z` or `\n`.
fn bytes_of(set: &str) -> Vec<u8> {
    let set = match set {
        "[:upper:]" => "A-Z",
        "[:lower:]" => "a-z",
        "[:digit:]" => "0-9",
        "[:space:]" => " \\t\\n\\r",
        _ => set,
    };
    let signs = unescaped(set);
    let mut bytes = Vec::new();
    let mut at = 0;
    while let Some(first) = signs.get(at) {
        match (signs.get(at + 1), signs.get(at + 2)) {
            (Some(b'-'), Some(last)) => {
                bytes.extend(*first..=*last);
                at += 3;
            }
            _ => {
                bytes.push(*first);
                at += 1;
            }
        }
    }
    bytes
}

pub fn tee(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let options = Options::read(arguments, flags("a"))?;
    let mut files = Vec::new();
    for name in &options.operands {
        let mut how = File::options();
        how.create(true).write(true);
        match options.has('a') {
            true => how.append(true),
            false => how.truncate(true),
        };
        files.push(how.open(name).with_context(|| name.clone())?);
    }
    let mut input = io::stdin().lock();
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            return Ok(0);
        }
        out.write_all(buffer)?;
        out.flush()?;
        for file in &mut files {
            file.write_all(buffer)?;
        }
        let length = buffer.len();
        input.consume(length);
    }
}

pub fn seq(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    let numbers: Result<Vec<i64>, _> = arguments.iter().map(|word| word.parse()).collect();
    let numbers = numbers.map_err(|_| misuse("whole numbers are needed"))?;
    let (first, last) = match numbers[..] {
        [last] => (1, last),
        [first, last] => (first, last),
        _ => return Err(misuse("one or two numbers are needed")),
    };
    for number in first..=last {
        writeln!(out, "{number}")?;
    }
    Ok(0)
}

pub fn sha256sum(arguments: &[String], out: &mut dyn Write) -> ToolResult {
    use sha2::Digest;
    let options = Options::read(arguments, flags("b"))?;
    each(&sources(&options), |name| {
        let mut digest = sha2::Sha256::new();
        let mut file = open(name)?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let length = file.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            digest.update(buffer.get(..length).unwrap_or_default());
        }
        for byte in digest.finalize() {
            write!(out, "{byte:02x}")?;
        }
        writeln!(out, "  {name}")?;
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_and_ranges_are_read() {
        assert_eq!(bytes_of("a-cx\\n"), b"abcx\n");
        assert_eq!(
            ranges("1,3-5,7-").unwrap(),
            [(1, 1), (3, 5), (7, usize::MAX)]
        );
        assert!(ranges("x").is_err());
    }
}
