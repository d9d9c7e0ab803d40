//! The process that serves one disk.
//!
//! It holds the medium and answers the kernel's requests to it, puts ext4 on top with the system's tools, obeys the
//! control socket, and takes everything down when it is told to, when it is interrupted, or when the process
//! that started it is gone.
//!
//! Why a process of its own: a process that waits for the disk it serves can deadlock, and when it is killed while
//! a thread of it waits, its FUSE connection is never closed. The harness and its children wait for the disk all
//! the time, so the server is neither: it never touches a file on the disk, makes no system call that does I/O
//! on it (`command` says how), and is marked as part of the path of write-back (`PR_SET_IO_FLUSHER`), so
//! that its own allocations do not wait for pages that only it can clean. (For the same reason it does not belong in
//! the memory cgroup of what it serves.) Killed outright, it leaves mounts whose
//! I/O fails at once; [`crate::cleanup()`] removes them.
//!
//! ```text
//!         cut_power            release_hung_io            finish_cut              power_on
//!   On ───────────────► Cut ───────────────────► Released ───────────► Detached ───────────► On
//!        I/O hangs             I/O fails (EIO)           ext4 shut down,          attached, journal
//!                                                        unmounted, detached      replayed, checked
//! ```

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{MemfdFlags, memfd_create};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cleanup::{Cleanup, sweep_directory};
use crate::config::{Backing, DiskConfig, Kind};
use crate::control::{Description, Line, Reply, Request};
use crate::device::Device;
use crate::error::{At, Error, Result};
use crate::fault::CutMode;
use crate::fuse::{self, MEDIUM_NAME};
use crate::kernel;
use crate::medium::Medium;
use crate::place::{Place, Record, make_mount_point};
use crate::recording::Recorder;
use crate::stack::{PowerOnReport, Stack};
use crate::stats::{CutReport, PowerState, Stats};

/// Control connections served at once; more are closed.
const MAX_CONNECTIONS: usize = 32;

/// Why a server ends.
pub(crate) enum Stop {
    /// A signal, or the owner is gone.
    Quietly,
    /// A request, to be answered when all is down.
    Asked(Line),
}

/// A disk that is up.
struct Server {
    config: DiskConfig,
    place: Place,
    /// None for a plain loop device.
    device: Option<Arc<Device>>,
    /// The image of a plain loop device, which the kernel reaches through this process's descriptor.
    _image: Option<File>,
    /// Held through each change of power, which may take seconds.
    layers: Mutex<Layers>,
    /// Changed only with `layers` held; read without.
    power: Mutex<PowerState>,
}

/// What stands on the medium, and what the state directory says of it.
struct Layers {
    stack: Stack,
    record: Record,
    /// How the power was cut, until it is on again.
    cut: Option<CutMode>,
}

/// Makes a disk and serves it until it is stopped. `ready` is told once it is mounted; `owner` is a connection whose
/// end is the end of the disk.
pub(crate) fn run(config: DiskConfig, owner: Option<Line>, ready: impl FnOnce(&Description)) -> Result<()> {
    let (stop, stopped) = sync_channel(1);
    watch_signals(stop.clone())?;
    protect_process();
    let mut owner = owner;
    let server = match Server::start(config) {
        Ok(server) => Arc::new(server),
        Err(error) => {
            return match &mut owner {
                Some(owner) => owner.send(&Reply::<()>::Error(error.to_string())),
                None => Err(error),
            };
        }
    };
    let outcome = serve(&server, owner, ready, &stop, &stopped);
    let cleanup = server.take_down();
    if let Ok(Stop::Asked(mut line)) = outcome {
        let reply = match &cleanup {
            Ok(report) if report.problems.is_empty() => Reply::Ok(report.removed.clone()),
            Ok(report) => Reply::Error(report.problems.join("; ")),
            Err(error) => Reply::Error(error.to_string()),
        };
        // Whoever asked may have gone; the disk is down all the same.
        let _ = line.send(&reply);
        return Ok(());
    }
    cleanup?.into_result()?;
    outcome.map(drop)
}

fn serve(
    server: &Arc<Server>,
    owner: Option<Line>,
    ready: impl FnOnce(&Description),
    stop: &SyncSender<Stop>,
    stopped: &Receiver<Stop>,
) -> Result<Stop> {
    server.listen(stop.clone())?;
    let description = server.describe();
    if let Some(mut line) = owner {
        line.send(&Reply::Ok(&description))?;
        let (server, stop) = (Arc::clone(server), stop.clone());
        spawn("disk-owner", move || {
            server.converse(line, &stop);
            // The end of this conversation is the end of the owner.
            let _ = stop.send(Stop::Quietly);
        })?;
    }
    ready(&description);
    // Cannot fail while `stop` lives.
    Ok(stopped.recv().unwrap_or(Stop::Quietly))
}

pub(crate) fn watch_signals(stop: SyncSender<Stop>) -> Result<()> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).at("watch for signals in", Path::new("/proc/self"))?;
    spawn("disk-signals", move || {
        for _ in &mut signals {
            let _ = stop.send(Stop::Quietly);
        }
    })
}

/// Both are precautions that need `CAP_SYS_RESOURCE`; where it is missing the disk works without.
pub(crate) fn protect_process() {
    let _ = rustix::process::configure_io_flusher_behavior(true);
    let _ = std::fs::write("/proc/self/oom_score_adj", "-900");
}

pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body);
    thread.at("start a thread of", Path::new("/proc/self")).map(drop)
}

impl Server {
    fn start(config: DiskConfig) -> Result<Self> {
        let config = config.checked()?;
        let place = Place::create()?;
        let directory = place.directory().to_owned();
        let server = Self::build(config, place);
        if server.is_err() {
            // What was made so far goes again; the failure to report is the first one.
            let _ = sweep_directory(&directory);
        }
        server
    }

    fn build(config: DiskConfig, place: Place) -> Result<Self> {
        let mount_point = config.mount_point.clone().unwrap_or_else(|| place.directory().join("mnt"));
        let control = config.control.clone().unwrap_or_else(|| place.directory().join("control"));
        if control.exists() {
            // Of another, living disk, or no socket at all: not for the clean-up to remove.
            return Err(Error::Invalid(format!("{} exists already", control.display())));
        }
        let record = Record {
            control,
            kind: Some(config.kind),
            size_bytes: config.size_bytes,
            made_mount_point: make_mount_point(&mount_point)?,
            mount_point: mount_point.clone(),
            loop_device: None,
            loop_backing: None,
        };
        place.save(&record)?;
        let image = open_image(&config)?;
        let (device, image, medium) = match config.kind {
            Kind::PowerSwitch => {
                let device = serve_medium(&config, image, &place.fuse())?;
                (Some(device), None, place.fuse().join(MEDIUM_NAME))
            }
            Kind::PlainLoop => {
                let path = format!("/proc/{}/fd/{}", std::process::id(), image.as_raw_fd());
                image.set_len(config.size_bytes).at("size the image", Path::new(&path))?;
                (None, Some(image), PathBuf::from(path))
            }
        };
        let mut layers = Layers { stack: Stack::new(medium, mount_point, &config), record, cut: None };
        layers.put_up(&place, &config)?;
        let (layers, power) = (Mutex::new(layers), Mutex::new(PowerState::On));
        Ok(Self { config, place, device, _image: image, layers, power })
    }

    fn take_down(&self) -> Result<Cleanup> {
        if let Some(device) = &self.device {
            device.kill();
        }
        // Waits for a change of power that is under way, which the dead device brings to its end.
        let _layers = lock(&self.layers);
        sweep_directory(self.place.directory())
    }

    fn describe(&self) -> Description {
        // The record on disk would do as well, but a change of power may be under way.
        let layers = lock(&self.layers);
        Description {
            pid: std::process::id(),
            kind: self.config.kind,
            size_bytes: self.config.size_bytes,
            mount_point: layers.record.mount_point.clone(),
            control: layers.record.control.clone(),
            state_directory: self.place.directory().to_owned(),
            loop_device: layers.stack.loop_device().map(Path::to_owned),
            power: *lock(&self.power),
        }
    }

    fn listen(self: &Arc<Self>, stop: SyncSender<Stop>) -> Result<()> {
        let path = lock(&self.layers).record.control.clone();
        let listener = UnixListener::bind(&path).at("listen on", &path)?;
        let server = Arc::clone(self);
        spawn("disk-control", move || server.accept(&listener, &path, &stop))
    }

    fn accept(self: Arc<Self>, listener: &UnixListener, path: &Path, stop: &SyncSender<Stop>) {
        let connections = Arc::new(AtomicUsize::new(0));
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            if connections.load(Ordering::Acquire) == MAX_CONNECTIONS {
                continue;
            }
            connections.fetch_add(1, Ordering::AcqRel);
            let line = Line::new(stream, path);
            let (server, stop, count) = (Arc::clone(&self), stop.clone(), Arc::clone(&connections));
            let served = spawn("disk-connection", move || {
                server.converse(line, &stop);
                count.fetch_sub(1, Ordering::AcqRel);
            });
            if served.is_err() {
                connections.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }

    /// Obeys one connection to its end.
    fn converse(&self, mut line: Line, stop: &SyncSender<Stop>) {
        while let Ok(Some(request)) = line.receive::<Request>() {
            if request == Request::Stop {
                // A full channel means that the end is coming already.
                let _ = stop.try_send(Stop::Asked(line));
                return;
            }
            if self.obey(&request, &mut line).is_err() {
                return;
            }
        }
    }

    fn obey(&self, request: &Request, line: &mut Line) -> Result<()> {
        match request {
            Request::Describe => answer(line, Ok(self.describe())),
            Request::Stats => answer(line, Ok(self.stats())),
            Request::CutPower { mode } => answer(line, self.cut_power(*mode)),
            Request::ReleaseHungIo => answer(line, self.release_hung_io()),
            Request::FinishCut => answer(line, self.finish_cut()),
            Request::PowerOn => answer(line, self.power_on()),
            Request::Inject { fault } => {
                let injected = self.device("inject a fault");
                answer(line, injected.and_then(|device| device.inject(*fault).map_err(Error::Invalid)))
            }
            Request::Heal => answer(line, self.device_when_on("heal").map(Device::heal)),
            Request::Stall => answer(line, self.device_when_on("stall").map(Device::stall)),
            Request::Resume => answer(line, self.device_when_on("resume").map(Device::resume)),
            // Handled where the connection can be handed over.
            Request::Stop => Ok(()),
        }
    }

    fn stats(&self) -> Stats {
        let power = *lock(&self.power);
        match &self.device {
            Some(device) => device.stats(power),
            None => Stats::without_device(power),
        }
    }

    fn cut_power(&self, mode: CutMode) -> Result<CutReport> {
        let mut layers = lock(&self.layers);
        self.require(PowerState::On, "cut the power")?;
        let report = match &self.device {
            Some(device) => device.cut(mode).map_err(Error::Refused),
            None if mode.loses_power() => Err(Error::Invalid(
                "a plain loop device keeps its power: cut a power-switch disk, or crash the system (os-crash)"
                    .to_owned(),
            )),
            None => Ok(CutReport::without_device(mode)),
        };
        if report.is_ok() {
            layers.cut = Some(mode);
            *lock(&self.power) = PowerState::Cut;
        }
        report
    }

    fn release_hung_io(&self) -> Result<()> {
        let _layers = lock(&self.layers);
        self.require(PowerState::Cut, "release hung I/O")?;
        if let Some(device) = &self.device {
            device.release();
        }
        *lock(&self.power) = PowerState::Released;
        Ok(())
    }

    fn finish_cut(&self) -> Result<()> {
        let mut layers = lock(&self.layers);
        self.require(PowerState::Released, "finish the cut")?;
        layers.stack.crash_ext4()?;
        layers.stack.unmount()?;
        layers.stack.detach()?;
        *lock(&self.power) = PowerState::Detached;
        Ok(())
    }

    fn power_on(&self) -> Result<PowerOnReport> {
        let mut layers = lock(&self.layers);
        self.require(PowerState::Detached, "switch the power on")?;
        if let Some(device) = &self.device
            && layers.cut.is_some_and(CutMode::loses_power)
        {
            device.power_on();
        }
        let report = layers.restart(&self.place, self.config.check_after_cut)?;
        layers.cut = None;
        *lock(&self.power) = PowerState::On;
        Ok(report)
    }

    fn require(&self, wanted: PowerState, request: &'static str) -> Result<()> {
        let power = *lock(&self.power);
        if power == wanted { Ok(()) } else { Err(Error::WrongState { request, state: power.in_words() }) }
    }

    fn device(&self, request: &str) -> Result<&Device> {
        let refusal = || Error::Invalid(format!("cannot {request}: this disk is a plain loop device"));
        self.device.as_deref().ok_or_else(refusal)
    }

    /// Between the cut and power on these would interfere with what hangs.
    fn device_when_on(&self, request: &'static str) -> Result<&Device> {
        self.require(PowerState::On, request)?;
        self.device(request)
    }
}

impl Layers {
    /// For the first time.
    fn put_up(&mut self, place: &Place, config: &DiskConfig) -> Result<()> {
        self.stack.prepare_mount_point()?;
        self.stack.attach()?;
        self.save(place)?;
        self.stack.format(&config.mkfs_options)?;
        self.stack.mount()
    }

    fn restart(&mut self, place: &Place, check: bool) -> Result<PowerOnReport> {
        let report = self.stack.restart(check);
        if report.is_err() && self.stack.loop_device().is_some() {
            // Back to where power on can be tried again. What fails here too is left to the end of the disk.
            let _ = self.stack.unmount().and_then(|()| self.stack.detach());
        }
        self.save(place)?;
        report
    }

    fn save(&mut self, place: &Place) -> Result<()> {
        let device = self.stack.loop_device();
        self.record.loop_backing = device.and_then(kernel::loop_backing);
        self.record.loop_device = device.map(Path::to_owned);
        place.save(&self.record)
    }
}

fn answer<T: Serialize>(line: &mut Line, result: Result<T>) -> Result<()> {
    line.send(&match result {
        Ok(value) => Reply::Ok(value),
        Err(error) => Reply::Error(error.to_string()),
    })
}

/// A thread that panicked with a lock held has said so on standard error; the disk has to stay commandable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The unnamed file that holds the medium.
fn open_image(config: &DiskConfig) -> Result<File> {
    match &config.backing {
        Backing::Directory(directory) => tempfile::tempfile_in(directory).at("create an image in", directory),
        Backing::Memory => {
            let file = memfd_create("highwater-disk", MemfdFlags::CLOEXEC);
            file.at("create an image in", Path::new("memory")).map(File::from)
        }
    }
}

fn serve_medium(config: &DiskConfig, image: File, directory: &Path) -> Result<Arc<Device>> {
    let medium = Medium::new(image, config.size_bytes, config.cache_limit_bytes);
    let medium = medium.at("size the image of", directory)?;
    let record = |path: &PathBuf| Recorder::create(path, &medium, config.cache_limit_bytes);
    let recorder = config.recording.as_ref().map(record).transpose()?;
    let device = Arc::new(Device::new(medium, recorder).at("start the delay thread of", directory)?);
    let session = fuse::serve(Arc::clone(&device), directory).at("mount FUSE on", directory)?;
    // It ends with its mount or with the process, whichever is first. Dropping it would unmount, waiting for it
    // could wait for ever.
    std::mem::forget(session);
    Ok(device)
}
