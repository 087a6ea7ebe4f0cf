//! Where decisions meet sockets.
