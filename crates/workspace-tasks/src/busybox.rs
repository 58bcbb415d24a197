//! The `nslookup` of busybox up to 1.28. It requests addresses of both families from the C
//! library, and a name of each address; older programs parse its output.
//!
//! Its code is still in the source of today's busybox, behind a configuration option; Debian has
//! that source, and no package of the program.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::setup::quiet;

/// The directory below the tools; it contains only the program.
const DIRECTORY: &str = "old-nslookup";

/// The options added to an empty configuration, without `FEATURE_NSLOOKUP_BIG`, the newer program.
const CHOSEN: [&str; 3] = ["NSLOOKUP", "FEATURE_IPV6", "STATIC"];

/// Builds the program, unless it exists.
pub fn install_nslookup(tools: &Path) -> Result<()> {
    let directory = tools.join(DIRECTORY);
    if directory.join("nslookup").is_file() {
        return Ok(());
    }
    let scratch = tools.join("busybox-source");
    if scratch.exists() {
        fs::remove_dir_all(&scratch).context("clear an earlier attempt")?;
    }
    fs::create_dir_all(scratch.join("tree")).context("make a scratch directory")?;
    download(&scratch)?;
    let tree = scratch.join("tree");
    build(&tree)?;
    fs::create_dir_all(&directory).context("make the program's directory")?;
    fs::rename(tree.join("busybox"), directory.join("nslookup")).context("take nslookup")?;
    fs::remove_dir_all(&scratch).context("clear the scratch directory")
}

/// Downloads Debian's source, with separate package lists: the machine's usually have no sources.
fn download(scratch: &Path) -> Result<()> {
    let lists = scratch.join("lists");
    fs::create_dir_all(lists.join("partial")).context("make a directory of lists")?;
    let sources = scratch.join("sources.list");
    fs::write(&sources, debian_sources()?).context("write where sources are")?;
    for words in [
        &["update"][..],
        &["source", "--download-only", "--only-source", "busybox"],
    ] {
        let mut get = Command::new("apt-get");
        get.arg("-o")
            .arg(format!("Dir::Etc::sourcelist={}", sources.display()))
            .args(["-o", "Dir::Etc::sourceparts=-"])
            .arg("-o")
            .arg(format!("Dir::State::lists={}", lists.display()))
            // The user that downloads for root may not write here.
            .args(["-o", "APT::Sandbox::User=root"])
            .args(words);
        quiet(get.current_dir(scratch))?;
    }
    let archive = fs::read_dir(scratch)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.to_string_lossy().ends_with(".orig.tar.bz2"))
        .context("no source archive came")?;
    let mut unpack = Command::new("tar");
    unpack.args(["-x", "--bzip2", "--strip-components=1", "-C", "tree", "-f"]);
    quiet(unpack.arg(archive).current_dir(scratch))
}

/// The sources of the packages that this machine gets from Debian.
fn debian_sources() -> Result<String> {
    let list = || {
        let mut list = Command::new("apt-get");
        list.args(["indextargets", "Identifier: Packages", "Origin: Debian"])
            .args(["--format", "deb-src $(REPO_URI) $(RELEASE) $(COMPONENT)"]);
        let output = list.output().context("start apt-get")?;
        Ok::<_, anyhow::Error>(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let sources = list()?;
    if !sources.is_empty() {
        return Ok(sources);
    }
    quiet(Command::new("apt-get").arg("update"))?;
    list()
}

fn build(tree: &Path) -> Result<()> {
    quiet(Command::new("make").arg("allnoconfig").current_dir(tree))?;
    let file = tree.join(".config");
    let mut configuration = fs::read_to_string(&file).context("read the configuration")?;
    for option in CHOSEN {
        let unset = format!("# CONFIG_{option} is not set\n");
        configuration = configuration.replace(&unset, &format!("CONFIG_{option}=y\n"));
    }
    fs::write(&file, configuration).context("write the configuration")?;
    quiet(Command::new("make").arg("oldconfig").current_dir(tree))?;
    quiet(Command::new("make").arg("--jobs=2").current_dir(tree))
}
