//! Calls the entry function that sits beside the code.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgdog::sql::lexer::fuzz_lexer(data));
