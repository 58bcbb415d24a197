//! The options of a volume's mount, checked before the kernel or `mount` gets them (mount(8), nfs(5)). An option is
//! refused if it concerns anything except the mount of the volume. Pure.

/// Maximum length of an option: keys and values of fsconfig(2) have at most 256 bytes, including the final zero.
const OPTION_BYTES_MAX: usize = 255;

/// Maximum length of all options, including commas: mount(2) accepts one page.
const ALL_BYTES_MAX: usize = 4095;

/// Maximum number of characters of a long option in an error.
const PRINTED_CHARS_MAX: usize = 40;

/// The options that are refused with any value.
const REFUSED: &[&str] = &[
    // Another operation than a new mount.
    "bind",
    "move",
    "rbind",
    "remount",
    // Mounts that other namespaces share.
    "private",
    "rprivate",
    "rshared",
    "rslave",
    "runbindable",
    "shared",
    "slave",
    "unbindable",
    // Another source than the volume's.
    "addr",
    "fd",
    "loop",
    "mountaddr",
    "mounthost",
    "offset",
    "sizelimit",
    "source",
    "src",
    // Devices and directories in addition to the volume.
    "device",
    "jdev",
    "journal_dev",
    "journal_path",
    "logdev",
    "lowerdir",
    "rtdev",
    "upperdir",
    "workdir",
    // Programs.
    "helper",
    "uhelper",
];

/// The prefixes of options that programs interpret (mount(8), systemd.mount(5)), with effects outside of the mount.
const REFUSED_PREFIXES: &[&str] = &["x-", "X-", "verity."];

/// The reason why an option is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionRefusal {
    /// An option that concerns more than the mount of the volume.
    #[error("mount option \"{0}\" is not for a volume")]
    NotOfVolume(String),
    /// An option with a line break or another control character.
    #[error("mount option \"{0}\" has a control character")]
    Control(String),
    /// A quote without an end, which would hide the comma before the next option.
    #[error("mount option \"{0}\" has a quote without an end")]
    Quote(String),
    /// An option that is too long for the kernel.
    #[error("mount option \"{0}…\" has {1} bytes, more than {OPTION_BYTES_MAX}")]
    Long(String, usize),
    /// All options together are too long for the kernel.
    #[error("the mount options have {0} bytes, more than {ALL_BYTES_MAX}")]
    Many(usize),
}

/// Checks the options of a volume.
///
/// # Errors
/// The first option that is refused.
pub fn check(options: &[String]) -> Result<(), OptionRefusal> {
    let all = options.iter().map(|option| option.len() + 1).sum::<usize>();
    if all > ALL_BYTES_MAX + 1 {
        return Err(OptionRefusal::Many(all - 1));
    }
    for option in options {
        let escaped = || option.escape_debug().to_string();
        if option.contains(|c: char| c.is_control()) {
            return Err(OptionRefusal::Control(escaped()));
        }
        if option.matches('"').count() % 2 != 0 {
            return Err(OptionRefusal::Quote(escaped()));
        }
        split(option).try_for_each(check_one)?;
    }
    Ok(())
}

fn check_one(option: &str) -> Result<(), OptionRefusal> {
    if option.len() > OPTION_BYTES_MAX {
        let shortened = option.chars().take(PRINTED_CHARS_MAX).collect::<String>();
        return Err(OptionRefusal::Long(shortened, option.len()));
    }
    let key = option.split_once('=').map_or(option, |(key, _)| key);
    let key = key.trim();
    let is_of_program = REFUSED_PREFIXES
        .iter()
        .any(|prefix| key.starts_with(prefix));
    match is_of_program || REFUSED.contains(&key) {
        true => Err(OptionRefusal::NotOfVolume(option.to_owned())),
        false => Ok(()),
    }
}

/// Splits options at commas outside of quotes; SELinux labels contain quotes.
pub fn split(options: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    options
        .split(move |c| {
            quoted ^= c == '"';
            c == ',' && !quoted
        })
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(options: &[&str]) -> Option<String> {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        check(&options).err().map(|refusal| refusal.to_string())
    }

    #[test]
    fn options_of_the_mount_alone_are_passed_on() {
        let many: Vec<String> = (0..400).map(|number| format!("o{number}=1")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let longest = format!("k={}", "v".repeat(253));
        let rows: &[&[&str]] = &[
            &[],
            &["", "defaults,_netdev,nofail", "rw"],
            &["suid", "dev", "exec", "noatime", "ro"],
            &["nfsvers=4.1, hard", "timeo=600"],
            &["context=\"u:r:t:s0:c1,bind\""],
            &["data=ordered", "discard", "subvol=a b"],
            // Keys that have a refused key as a prefix.
            &["binder", "moved=1", "devices", "xattr"],
            &[&longest],
            &many,
        ];
        for options in rows {
            assert_eq!(refusal(options), None, "{options:?}");
        }
    }

    #[test]
    fn options_that_concern_something_else_are_refused() {
        let rows = [
            "bind",
            "remount",
            "move",
            "rshared",
            "addr=10.9.9.9",
            "mountaddr=10.9.9.9",
            "source=/dev/sda",
            "loop=/dev/loop3",
            "offset=4096",
            "lowerdir=/etc",
            "device=/dev/sda",
            "journal_path=/dev/sda",
            "x-mount.mkdir",
            "X-mount.subdir=../..",
            "x-systemd.automount",
            "verity.hashdevice=/dev/sda",
            "uhelper=evil",
            "bind =1",
        ];
        for option in rows {
            let refused = format!("mount option \"{option}\" is not for a volume");
            for options in [
                vec![option],
                vec!["hard", option],
                vec![&format!("hard, {option} ,ro")],
            ] {
                assert_eq!(refusal(&options), Some(refused.clone()), "{options:?}");
            }
        }
    }

    #[test]
    fn options_that_hide_others_or_are_too_long_are_refused() {
        for (option, printed) in [
            ("a\nbind", "a\\nbind"),
            ("a\0b", "a\\0b"),
            ("a=\u{1b}[m", "a=\\u{1b}[m"),
        ] {
            let refused = format!("mount option \"{printed}\" has a control character");
            assert_eq!(refusal(&[option]), Some(refused));
        }
        // Joined by commas, the second option would end the quote of the first, and show a third.
        let refused = refusal(&["a=\"", "b=\"c,bind,d\""]);
        let expected = "mount option \"a=\\\"\" has a quote without an end";
        assert_eq!(refused.as_deref(), Some(expected));
        let refused = refusal(&[&"é".repeat(128)]);
        let expected = format!(
            "mount option \"{}…\" has 256 bytes, more than 255",
            "é".repeat(40)
        );
        assert_eq!(refused, Some(expected));
        let one = "o".repeat(254);
        let mut page = vec![one.as_str(); 16];
        page.push("1234567890123456");
        assert_eq!(refusal(&page[..16]), None);
        let expected = "the mount options have 4096 bytes, more than 4095";
        assert_eq!(refusal(&page).as_deref(), Some(expected));
    }
}
