//! Calls the entry function that sits beside the code.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgdog::config::resolve::fuzz_config(data));
