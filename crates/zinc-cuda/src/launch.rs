//! A launch as data: what the driver gets, printable and testable without a card.

use std::fmt;

use crate::driver::Shape;

/// A kernel by module (file in `kernels/`) and name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Kernel {
    /// Stem of the `.cu` file.
    pub module: &'static str,
    /// Name of the `extern "C"` function.
    pub name: &'static str,
}

/// Parameters of a kernel: a `#[repr(C)]` struct with the fields of the C struct of the same name, no padding.
pub trait Params: bytemuck::NoUninit {}
impl<T: bytemuck::NoUninit> Params for T {}

/// `Count` of `kernels/zinc.cuh`: actual rows of a dimension.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::NoUninit)]
pub struct Count {
    /// Address of the step header.
    pub header: u64,
    /// 0 tokens, 1 sequences, 2 wanted rows, 3 a number that the plan fixes.
    pub which: u32,
    /// Zero.
    pub unused: u32,
}

/// `Rows` of `kernels/zinc.cuh`: rows of floats.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Rows {
    /// Address of the first one.
    pub data: u64,
    /// Floats from row to row.
    pub stride: u32,
    /// Floats of a row.
    pub cols: u32,
}

impl Rows {
    /// The same from a later column on.
    pub fn from_column(self, col: u32) -> Rows {
        Rows { data: self.data + u64::from(col) * 4, ..self }
    }
}

/// One launch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Launch {
    /// What runs.
    pub kernel: Kernel,
    /// Bytes of its one parameter.
    pub params: Vec<u8>,
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Bytes of dynamic shared memory.
    pub shared: u32,
    /// Whether it may start before the launch before it is done: true for all kernels that wait as the crate says.
    pub overlaps: bool,
    /// Index of the plan's node.
    pub node: usize,
}

impl Launch {
    /// A launch of one block of `block` threads without shared memory; set what differs.
    pub fn new(kernel: Kernel, params: impl Params, grid: [u32; 3], block: u32) -> Launch {
        let params = bytemuck::bytes_of(&params).to_vec();
        Launch { kernel, params, grid, block, shared: 0, overlaps: true, node: 0 }
    }

    /// With so many bytes of dynamic shared memory.
    pub fn with_shared(self, shared: u32) -> Launch {
        Launch { shared, ..self }
    }

    /// What the driver needs besides kernel and parameters.
    pub fn shape(&self) -> Shape {
        Shape { grid: self.grid, block: self.block, shared: self.shared, overlaps: self.overlaps }
    }
}

/// `matvec/matvec_q4_k_1 grid 66 1 1 block 512 shared 81920`.
impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.grid;
        write!(
            f,
            "{}/{} grid {x} {y} {z} block {} shared {}",
            self.kernel.module, self.kernel.name, self.block, self.shared
        )?;
        if !self.overlaps {
            f.write_str(" alone")?;
        }
        Ok(())
    }
}
