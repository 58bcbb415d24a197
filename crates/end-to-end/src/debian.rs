//! Images made of Debian packages: unpacked, with the files that their installation would have added. Each image is
//! built once and stored in `target/end-to-end-tools/images`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use crate::image::{Image, Settings};

/// The contents of an image.
#[derive(Clone, Debug, Default)]
pub struct Recipe<'a> {
    /// The name of the image.
    pub name: &'a str,
    /// The directory of packages that `cargo xtask setup` filled.
    pub packages: &'a str,
    /// Files of the packages that no container runs or reads, in addition to [`UNUSED`]: patterns of names.
    pub unused: &'a [&'a str],
    /// Directories that `cargo xtask setup` built, and the paths of their contents in the image.
    pub trees: &'a [(&'a str, &'a str)],
    /// Accounts in addition to `root` and `nobody`: name, and number of user and group.
    pub users: &'a [(&'a str, u32)],
    /// Directories: path, owner's number, mode.
    pub directories: &'a [(&'a str, u32, u32)],
    /// Files of root: path, mode, contents.
    pub files: &'a [(&'a str, u32, &'a str)],
    /// Symbolic links: path, target.
    pub links: &'a [(&'a str, &'a str)],
    /// The start of a container.
    pub settings: Settings<'a>,
}

impl Recipe<'_> {
    /// The image; the stored image, if neither recipe nor packages have changed since.
    ///
    /// # Panics
    ///
    /// Packages are missing, or the image cannot be built.
    pub fn image(&self) -> Image {
        let mut packages = archives(&crate::tool("packages").join(self.packages));
        packages.retain(|package| !is_unused(package));
        let images = crate::tools().join("images");
        fs::create_dir_all(&images).expect("make the directory of images");
        // Tests are concurrent processes: the first one builds the image, the others wait.
        let lock = File::create(images.join(format!("{}.lock", self.name))).expect("make a lock");
        lock.lock().expect("wait for the image");
        let directory = images.join(self.name);
        let key = self.key(&packages);
        let is_current = fs::read_to_string(directory.join("key")).is_ok_and(|old| old == key);
        if is_current {
            return Image::read(&directory).expect("read the kept image");
        }
        let root = self.root(&packages);
        let image = Image::of_directory(root.path(), &self.settings);
        fs::create_dir_all(&directory).expect("make the image's directory");
        // The key is written last, so a directory without a key is built anew.
        drop(fs::remove_file(directory.join("key")));
        image.write(&directory).expect("keep the image");
        fs::write(directory.join("key"), key).expect("keep the image's key");
        image
    }

    /// The key of the stored image: it changes with the recipe, the packages' versions, and the method of building
    /// images.
    fn key(&self, packages: &[PathBuf]) -> String {
        let names: Vec<Option<&OsStr>> = packages.iter().map(|path| path.file_name()).collect();
        let made_by = [include_str!("debian.rs"), include_str!("image.rs")];
        let all = format!("{self:?}{names:?}{made_by:?}");
        let digest = Sha256::digest(all.as_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn root(&self, packages: &[PathBuf]) -> tempfile::TempDir {
        let root = tempfile::Builder::new()
            .prefix("mainstay-image-")
            .tempdir()
            .expect("a directory");
        let path = root.path();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
        for directory in ["bin", "sbin", "lib", "lib64"] {
            let target = format!("usr/{directory}");
            fs::create_dir_all(path.join(&target)).expect("make a directory");
            symlink(target, path.join(directory)).expect("link a directory");
        }
        for package in packages {
            unpack(package, self.unused, path);
        }
        for directory in ["etc", "tmp", "proc", "sys", "dev", "root", "run"] {
            fs::create_dir_all(path.join(directory)).expect("make a directory");
        }
        fs::set_permissions(path.join("tmp"), fs::Permissions::from_mode(0o1777)).expect("chmod");
        self.write_accounts(path);
        link_busybox(path);
        for (directory, owner, mode) in self.directories {
            let directory = path.join(directory);
            fs::create_dir_all(&directory).expect("make a directory");
            chown(&directory, Some(*owner), Some(*owner)).expect("chown");
            fs::set_permissions(&directory, fs::Permissions::from_mode(*mode)).expect("chmod");
        }
        for (tree, directory) in self.trees {
            let directory = path.join(directory);
            fs::create_dir_all(&directory).expect("make a directory");
            let mut copy = Command::new("cp");
            copy.arg("-r")
                .arg(crate::tool(tree).join("."))
                .arg(directory);
            let copied = copy.status().is_ok_and(|status| status.success());
            assert!(copied, "copy {tree}");
        }
        for (file, mode, contents) in self.files {
            let file = path.join(file);
            fs::create_dir_all(file.parent().expect("a parent")).expect("make a directory");
            fs::write(&file, contents).expect("write a file");
            fs::set_permissions(&file, fs::Permissions::from_mode(*mode)).expect("chmod");
        }
        for (link, target) in self.links {
            let link = path.join(link);
            // The link replaces busybox's command of that name.
            drop(fs::remove_file(&link));
            symlink(target, link).expect("make a link");
        }
        root
    }

    fn write_accounts(&self, root: &Path) {
        let mut passwd = "root:x:0:0:root:/root:/bin/sh\n".to_owned();
        let mut group = "root:x:0:\ntty:x:5:\n".to_owned();
        for (name, number) in self.users.iter().chain(&[("nobody", 65534)]) {
            passwd += &format!("{name}:x:{number}:{number}:{name}:/:/bin/sh\n");
            group += &format!("{name}:x:{number}:\n");
        }
        fs::write(root.join("etc/passwd"), passwd).expect("write passwd");
        fs::write(root.join("etc/group"), group + "nogroup:x:65534:\n").expect("write group");
        let names = "hosts: files dns\n";
        fs::write(root.join("etc/nsswitch.conf"), names).expect("write nsswitch.conf");
    }
}

/// Prefixes of the names of packages that no container needs, though other packages depend on them: Perl, compilers and
/// their libraries, PostgreSQL's compiler for queries, servers in Java, the sources of locales.
const UNUSED_PACKAGES: &[&str] = &[
    "binutils",
    "cpp",
    "dpkg",
    "gcc",
    "libasan",
    "libbinutils",
    "libcc1",
    "libctf",
    "libeclipse-jdt",
    "libgcc-12-dev",
    "libgprofng",
    "libisl",
    "libllvm",
    "liblsan",
    "libperl",
    "libspring",
    "libtomcat9",
    "libtsan",
    "libubsan",
    "libz3",
    "locales",
    "perl",
];

/// Files of the packages that no container needs, including character sets and most time zones. Each test sends its
/// images through a registry and unpacks them: an image of 100 MB takes seconds of processor time, and each file costs
/// time in the file system.
const UNUSED: &[&str] = &[
    "*-linux-gnu/security",
    "*-linux-gnu/tc",
    "X11",
    "alsa",
    "bash-completion",
    "bitcode",
    "ca-certificates",
    "conf.avail",
    "gconv",
    "iproute2",
    "llvmjit*",
    "maven-repo",
    "perl5",
    "systemd",
    "vim",
    "zoneinfo/Europe",
    "zoneinfo/[!EUz]*",
];

fn is_unused(package: &Path) -> bool {
    let name = package.file_name().unwrap_or_default().to_string_lossy();
    UNUSED_PACKAGES.iter().any(|start| name.starts_with(start))
}

/// Unpacks a package, without documentation and unused files.
fn unpack(package: &Path, unused: &[&str], root: &Path) {
    let mut files = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .expect("start dpkg-deb");
    let archive = files.stdout.take().expect("dpkg-deb's output");
    let unread = ["doc", "man", "info", "locale", "lintian", "bug"]
        .map(|directory| format!("--exclude=./usr/share/{directory}/*"));
    let unused = UNUSED.iter().chain(unused);
    let unused = unused.map(|name| format!("--exclude={name}"));
    let unpacked = Command::new("tar")
        .args(["-x", "--keep-directory-symlink", "-C"])
        .arg(root)
        .args(unread.into_iter().chain(unused))
        .stdin(archive)
        .status();
    let read = files.wait().expect("wait for dpkg-deb");
    let unpacked = unpacked.is_ok_and(|status| status.success());
    assert!(read.success() && unpacked, "unpack {}", package.display());
}

/// Links the commands of busybox that no other package has, like the image of this name. Hard links are used, because a
/// symbolic link would be an additional file.
fn link_busybox(root: &Path) {
    let busybox = root.join("bin/busybox");
    let list = Command::new(&busybox).arg("--list").output();
    let list = list.expect("busybox in the image").stdout;
    for name in String::from_utf8_lossy(&list).lines() {
        let present = ["bin", "sbin"].map(|directory| root.join(directory).join(name));
        if present
            .iter()
            .all(|path| fs::symlink_metadata(path).is_err())
        {
            fs::hard_link(&busybox, &present[0]).expect("link a command");
        }
    }
}

pub(crate) fn archives(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)
        .expect("the package directory")
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "no packages in {}", directory.display());
    paths
}
