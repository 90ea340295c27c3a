//! stub
pub struct bell_t { _private: [u8; 0] }
