# One binary on a small image. io_uring must be allowed where it runs: Docker's default seccomp profile forbids it
# (docker run --security-opt seccomp=unconfined, or a profile that adds io_uring_setup, _enter and _register),
# and rings count against locked memory (--ulimit memlock=-1 where the default is low).

FROM debian:12-slim AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential ca-certificates clang curl git libclang-dev pkg-config \
 && rm -rf /var/lib/apt/lists/*
ENV PATH=/root/.cargo/bin:$PATH
# The compiler that deploy/pgdog.profdata was made with: others know its functions by other names.
RUN curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --default-toolchain 1.95.0
WORKDIR /src
COPY . .
RUN cp "$(deploy/build.sh)" /usr/local/bin/

FROM debian:12-slim
# What tls_verify = "verify_ca" and "verify_full" trust without tls_server_ca_certificate.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/*
RUN useradd --system --home-dir /etc/pgdog --shell /usr/sbin/nologin pgdog
COPY --from=build /usr/local/bin/pgdog /usr/local/bin/
COPY pgdog.toml users.toml /etc/pgdog/
USER pgdog
WORKDIR /etc/pgdog
EXPOSE 6432
STOPSIGNAL SIGTERM
ENTRYPOINT ["pgdog"]
CMD ["--config", "/etc/pgdog/pgdog.toml", "--users", "/etc/pgdog/users.toml"]
