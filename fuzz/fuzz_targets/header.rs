#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mpp_fuzz_bodies::header(bytes));
