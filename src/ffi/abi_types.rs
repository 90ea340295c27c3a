//! `abi.rs` as a module: ctest2 reads that file alone, so what it needs from outside is brought in here.
#![allow(non_camel_case_types)]
use std::ffi::c_void;
include!("abi.rs");
