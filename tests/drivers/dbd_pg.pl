# DBD::Pg as it comes: server-side prepare, COPY, savepoints, cursors, several connections, another encoding.
use strict;
use warnings;
use DBI;
use DBD::Pg qw(:async);

sub check { my ($holds, $what) = @_; die "not so: $what\n" unless $holds }

sub connection {
    return DBI->connect("dbi:Pg:", undef, undef, { RaiseError => 1, PrintError => 0, AutoCommit => 1, @_ });
}

my $db = connection();
$db->do("CREATE TABLE item (id int PRIMARY KEY, name text)");
my $insert = $db->prepare("INSERT INTO item VALUES (?, ?)");
$insert->execute($_, "item $_") for 0 .. 99;

# The same statement on more connections than there are servers.
my @all = map { connection() } 1 .. 6;
my @by_id = map { $_->prepare("SELECT name FROM item WHERE id = ?") } @all;
for my $n (0 .. 99) {
    for my $by_id (@by_id) {
        $by_id->execute($n);
        my ($found) = $by_id->fetchrow_array;
        check($found eq "item $n", "item $n");
        $by_id->finish;
    }
}

# Transactions, savepoints, errors.
$db->begin_work;
$db->do("UPDATE item SET name = 'changed'");
$db->pg_savepoint("s");
check(!eval { $db->do("SELECT 1/0"); 1 } && $db->state eq "22012", "division by zero");
$db->pg_rollback_to("s");
check($db->selectrow_array("SELECT count(*) FROM item WHERE name = 'changed'") == 100, "savepoint");
$db->rollback;
check($db->selectrow_array("SELECT name FROM item WHERE id = 1") eq "item 1", "rollback");

# A cursor of SQL.
$db->begin_work;
$db->do("DECLARE c CURSOR FOR SELECT id FROM item ORDER BY id");
my $total = 0;
while (my @rows = @{ $db->selectcol_arrayref("FETCH 30 FROM c") }) { $total += $_ for @rows }
check($total == 4950, "cursor");
$db->commit;

# COPY both ways.
$db->do("COPY item FROM STDIN");
$db->pg_putcopydata("$_\tcopied\n") for 200 .. 299;
$db->pg_putcopyend;
$db->do("COPY (SELECT id FROM item WHERE name = 'copied') TO STDOUT");
my ($line, $lines) = ("", 0);
$lines++ while $db->pg_getcopydata($line) >= 0;
check($lines == 100, "copied");

# Settings and another encoding, while others use the servers.
my $latin = connection(pg_enable_utf8 => 0);
$latin->do("SET client_encoding = 'LATIN1'");
$latin->do("INSERT INTO item VALUES (300, ?)", undef, "caf\xe9");
for (1 .. 10) {
    $_->selectrow_array("SELECT 1") for @all;
    check($latin->selectrow_array("SELECT name FROM item WHERE id = 300") eq "caf\xe9", "LATIN1");
    check($latin->selectrow_array("SELECT length(name) FROM item WHERE id = 300") == 4, "length");
}
# A column more between two executions: prepared anew, as the driver does not expect other columns of a handle.
my $all_of = $db->prepare("SELECT * FROM item WHERE id = ?");
for my $n (0 .. 9) {
    if ($n == 5) {
        $all[0]->do("ALTER TABLE item ADD COLUMN extra int DEFAULT 5");
        $all_of = $db->prepare("SELECT * FROM item WHERE id = ?");
    }
    $all_of->execute($n);
    check(scalar(my @row = $all_of->fetchrow_array) == ($n < 5 ? 2 : 3), "columns of $n");
    $all_of->finish;
}
$db->do("ALTER TABLE item DROP COLUMN extra");

# A query that is given up.
$db->do("SELECT pg_sleep(60)", { pg_async => PG_ASYNC });
my $watcher = connection();
my $sleeps = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
select(undef, undef, undef, 0.02) until $watcher->selectrow_array($sleeps);
$watcher->disconnect;
check($db->pg_cancel, "cancel");
check($db->selectrow_array("SELECT 1") == 1, "after the cancel");

# What pools do between two users of a connection.
for my $clean ("RESET ALL", "DEALLOCATE ALL", "DISCARD ALL") {
    my $one = connection();
    $one->do("SET statement_timeout = '9s'");
    $one->do($clean);
    check($one->selectrow_array("SHOW statement_timeout") eq ($clean eq "DEALLOCATE ALL" ? "9s" : "0"), $clean);
    $one->disconnect;
}
$_->do("DISCARD ALL") for @all;
check($db->selectrow_array("SELECT octet_length(name) FROM item WHERE id = 300") == 5, "UTF8");
check($db->ping, "ping");
check(scalar($db->tables(undef, "public", "item", "TABLE")), "introspection");
$_->disconnect for $db, $latin, @all;
print "all well\n";
