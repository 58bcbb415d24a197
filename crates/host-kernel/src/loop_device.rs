//! Loop devices, which present files of the host as block devices.
//!
//! The kernel detaches a device automatically when it is no longer open or mounted, so a killed user leaves nothing
//! behind. A device for other processes, which open and close it, is [persistent](LoopDevice::persistent_over) until it is
//! detached.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const LOOP_CLR_FD: u16 = 0x4c01;
const LOOP_SET_STATUS64: u16 = 0x4c04;
const LOOP_GET_STATUS64: u16 = 0x4c05;
const LOOP_SET_CAPACITY: u16 = 0x4c07;
const LOOP_CONFIGURE: u16 = 0x4c0a;
const LOOP_CTL_GET_FREE: u16 = 0x4c82;
const LO_FLAGS_AUTOCLEAR: u32 = 4;

/// Maximum number of attempts, because another process may take the free device first.
const ATTEMPTS: u32 = 64;

/// `struct loop_info64` of `linux/loop.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

impl Default for LoopInfo {
    fn default() -> Self {
        Self {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: 0,
            file_name: [0; 64],
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        }
    }
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// The ioctl calls.
mod call {
    use super::*;

    nix::ioctl_none_bad!(get_free, LOOP_CTL_GET_FREE);
    nix::ioctl_write_ptr_bad!(configure, LOOP_CONFIGURE, LoopConfig);
    nix::ioctl_read_bad!(get_status, LOOP_GET_STATUS64, LoopInfo);
    nix::ioctl_write_ptr_bad!(set_status, LOOP_SET_STATUS64, LoopInfo);
    nix::ioctl_none_bad!(clear, LOOP_CLR_FD);
    nix::ioctl_none_bad!(set_capacity, LOOP_SET_CAPACITY);
}

/// A loop device, which stays open as long as this value exists.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    file: File,
}

impl LoopDevice {
    /// The device for the file `backing`: the attached device, or a new one. Two devices for one file would each cache
    /// its content separately.
    ///
    /// # Errors
    /// The file cannot be opened, or no device is available.
    pub fn over(backing: &Path) -> io::Result<Self> {
        match Self::find(backing)? {
            Some(device) => Ok(device),
            None => Self::attach(backing, LO_FLAGS_AUTOCLEAR),
        }
    }

    /// The device for the file `backing`, which stays until it is [detached](Self::detach); see [`over`](Self::over).
    ///
    /// # Errors
    /// The errors of `over`.
    pub fn persistent_over(backing: &Path) -> io::Result<Self> {
        let Some(device) = Self::find(backing)? else {
            return Self::attach(backing, 0);
        };
        let mut info = device.status()?;
        if info.flags & LO_FLAGS_AUTOCLEAR != 0 {
            // The device was detached while open, so the kernel would remove it after its last use.
            info.flags &= !LO_FLAGS_AUTOCLEAR;
            // SAFETY: `info` is a valid loop_info64 for the length of the call.
            unsafe { call::set_status(device.file.as_raw_fd(), &info) }?;
        }
        Ok(device)
    }

    /// Detaches the device: at once, or when it is closed. All its data is on disk before.
    ///
    /// # Errors
    /// Errors of the kernel or of the disk. The device then stays attached.
    pub fn detach(self) -> io::Result<()> {
        // The kernel drops the cached data of a device that is being removed.
        self.file.sync_all()?;
        // SAFETY: the call takes no memory of ours.
        unsafe { call::clear(self.file.as_raw_fd()) }?;
        Ok(())
    }

    fn status(&self) -> io::Result<LoopInfo> {
        let mut info = LoopInfo::default();
        // SAFETY: `info` is a valid, writable loop_info64 for the length of the call.
        unsafe { call::get_status(self.file.as_raw_fd(), &mut info) }?;
        Ok(info)
    }

    /// Detaches the device of a file, if there is one.
    ///
    /// # Errors
    /// Errors of the kernel.
    pub fn detach_from(backing: &Path) -> io::Result<()> {
        match Self::find(backing) {
            Ok(Some(device)) => device.detach(),
            Ok(None) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The device that is attached to `backing`; `None` if there is none.
    ///
    /// # Errors
    /// The file or the list of devices cannot be read.
    pub fn find(backing: &Path) -> io::Result<Option<Self>> {
        let backing_file = std::fs::metadata(backing)?;
        for entry in std::fs::read_dir("/sys/block")? {
            let entry = entry?;
            let name = entry.file_name();
            let is_loop = name.to_string_lossy().starts_with("loop");
            if !is_loop || !entry.path().join("loop/backing_file").exists() {
                continue;
            }
            let path = Path::new("/dev").join(name);
            // A device that the kernel is removing cannot be opened, and is skipped.
            let Ok(file) = open(&path) else { continue };
            let device = Self { path, file };
            let status = device.status();
            // The kernel stores the device number in its own encoding, and `stat` returns the same encoding here.
            if status.is_ok_and(|info| {
                info.inode == backing_file.ino() && info.device == backing_file.dev()
            }) {
                return Ok(Some(device));
            }
        }
        Ok(None)
    }

    fn attach(backing: &Path, flags: u32) -> io::Result<Self> {
        let backing = OpenOptions::new().read(true).write(true).open(backing)?;
        let control = open(Path::new("/dev/loop-control"))?;
        for _ in 0..ATTEMPTS {
            // SAFETY: the call takes no memory of ours.
            let number = unsafe { call::get_free(control.as_raw_fd()) }?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let file = open(&path)?;
            let config = LoopConfig {
                fd: backing.as_raw_fd().unsigned_abs(),
                block_size: 0,
                info: LoopInfo {
                    flags,
                    ..LoopInfo::default()
                },
                reserved: [0; 8],
            };
            // SAFETY: `config` is a valid loop_config for the length of the call.
            match unsafe { call::configure(file.as_raw_fd(), &config) } {
                Ok(_) => return Ok(Self { path, file }),
                Err(nix::errno::Errno::EBUSY) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::Error::from(io::ErrorKind::ResourceBusy))
    }

    /// The path of the device, for instance `/dev/loop0`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adopts a new size of the backing file.
    ///
    /// # Errors
    /// Errors of the kernel.
    pub fn update_size(&self) -> io::Result<()> {
        // SAFETY: the call takes no memory of ours.
        unsafe { call::set_capacity(self.file.as_raw_fd()) }?;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_device_stays_grows_and_goes_when_it_is_told_to() {
        let backing = std::env::temp_dir().join(format!("loop-device-{}", std::process::id()));
        let file = File::create(&backing).unwrap();
        file.set_len(1 << 20).unwrap();
        assert!(LoopDevice::find(&backing).unwrap().is_none());
        let path = LoopDevice::persistent_over(&backing)
            .unwrap()
            .path()
            .to_owned();
        // No process has the device open now.
        let result = LoopDevice::find(&backing).unwrap().unwrap();
        assert_eq!(result.path(), path);
        file.set_len(2 << 20).unwrap();
        result.update_size().unwrap();
        let sectors = Path::new("/sys/block")
            .join(path.file_name().unwrap())
            .join("size");
        assert_eq!(std::fs::read_to_string(sectors).unwrap().trim(), "4096");
        // The device is detached while it is open, and requested again before it is closed.
        let reader = open(&path).unwrap();
        result.detach().unwrap();
        let again = LoopDevice::persistent_over(&backing).unwrap();
        drop(reader);
        assert_eq!(
            LoopDevice::find(&backing).unwrap().unwrap().path(),
            again.path()
        );
        again.detach().unwrap();
        // Tests of other processes open every device for a moment, to find their own.
        let is_gone = (0..100).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            LoopDevice::find(&backing).unwrap().is_none()
        });
        assert!(is_gone);
        std::fs::remove_file(&backing).unwrap();
    }
}
