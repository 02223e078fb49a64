// pgjdbc. Tells what it saw: a line each, the name, a tab, the value.
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.sql.BatchUpdateException;
import java.sql.CallableStatement;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.SQLWarning;
import java.sql.Statement;
import java.sql.Types;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Properties;
import java.util.TreeMap;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import javax.sql.XAConnection;
import javax.transaction.xa.XAException;
import javax.transaction.xa.XAResource;
import javax.transaction.xa.Xid;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;
import org.postgresql.replication.PGReplicationStream;
import org.postgresql.util.PSQLException;
import org.postgresql.util.ServerErrorMessage;
import org.postgresql.xa.PGXADataSource;

final class Pgjdbc {
  interface Work {
    Object with(Connection connection) throws Exception;
  }

  interface Observation {
    Object make() throws Exception;
  }

  static final long DEADLINE_MS = 60_000;
  static final String URL =
      "jdbc:postgresql://" + env("PGHOST") + ":" + env("PGPORT") + "/" + env("PGDATABASE") + "?sslmode=" + env("PGSSLMODE");

  static String env(String name) {
    return System.getenv(name);
  }

  static Connection connect(String... more) throws SQLException {
    Properties properties = new Properties();
    properties.put("user", env("PGUSER"));
    properties.put("password", env("PGPASSWORD"));
    for (int n = 0; n < more.length; n += 2) properties.put(more[n], more[n + 1]);
    return DriverManager.getConnection(URL, properties);
  }

  static Object using(Work work, String... more) throws Exception {
    try (Connection connection = connect(more)) {
      return work.with(connection);
    }
  }

  static String failure(Observation what) throws Exception {
    try {
      return "no error: " + what.make();
    } catch (SQLException error) {
      return said(error);
    }
  }

  static String said(SQLException error) {
    String text = error.getClass().getSimpleName() + " " + error.getSQLState() + " " + error.getMessage();
    ServerErrorMessage from = error instanceof PSQLException ? ((PSQLException) error).getServerErrorMessage() : null;
    if (from == null) return text;
    Object[] fields = {from.getSeverity(), from.getDetail(), from.getHint(), from.getFile(), from.getLine(), from.getRoutine(),
        from.getTable(), from.getColumn(), from.getPosition()};
    return text + " " + Arrays.toString(fields);
  }

  static String value(Connection connection, String query) throws SQLException {
    try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(query)) {
      rows.next();
      return rows.getString(1);
    }
  }

  static void execute(Connection connection, String query) throws SQLException {
    try (Statement statement = connection.createStatement()) {
      statement.execute(query);
    }
  }

  static void until(java.util.concurrent.Callable<Boolean> isMet) throws Exception {
    long deadline = System.currentTimeMillis() + DEADLINE_MS;
    while (!isMet.call()) {
      if (System.currentTimeMillis() > deadline) throw new IllegalStateException("waited in vain");
      Thread.sleep(20);
    }
  }

  static Object ended(String how) throws Exception {
    return using(other -> {
      try (Connection connection = connect()) {
        int pid = ((PGConnection) connection).getBackendPID();
        CompletableFuture<String> outcome = CompletableFuture.supplyAsync(() -> {
          try {
            return failure(() -> value(connection, "select pg_sleep(100)"));
          } catch (Exception error) {
            return error.toString();
          }
        });
        until(() -> value(other, "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and pid = " + pid).equals("1"));
        execute(other, "select " + how + "(" + pid + ")");
        return outcome.get() + "; " + failure(() -> value(connection, "select 1")) + "; " + connection.isClosed();
      }
    });
  }

  static Object prepared(String threshold) throws Exception {
    return using(connection -> {
      long sum = 0;
      try (PreparedStatement statement = connection.prepareStatement("select ?::int * 2, ?::text")) {
        for (int n = 0; n < 50; n++) {
          statement.setInt(1, n);
          statement.setString(2, "x".repeat(n));
          try (ResultSet rows = statement.executeQuery()) {
            rows.next();
            sum += rows.getInt(1) + rows.getString(2).length();
          }
        }
      }
      return sum;
    }, "prepareThreshold", threshold);
  }

  static Object batch(String rewritten) throws Exception {
    return using(connection -> {
      execute(connection, "create temp table batched (n int check (n <> 500))");
      List<Object> found = new ArrayList<>();
      for (int bad : new int[] {-1, 500}) {
        try (PreparedStatement statement = connection.prepareStatement("insert into batched values (?)")) {
          for (int n = 0; n < 1000; n++) {
            statement.setInt(1, n == bad ? 500 : n + 1000);
            statement.addBatch();
          }
          found.add(statement.executeBatch().length);
        } catch (BatchUpdateException error) {
          found.add(error.getUpdateCounts().length + " " + said(error));
        }
      }
      found.add(value(connection, "select count(*) from batched"));
      return found;
    }, "reWriteBatchedInserts", rewritten);
  }

  static final class Name implements Xid {
    public int getFormatId() {
      return 1;
    }

    public byte[] getGlobalTransactionId() {
      return "compat".getBytes(StandardCharsets.US_ASCII);
    }

    public byte[] getBranchQualifier() {
      return "one".getBytes(StandardCharsets.US_ASCII);
    }
  }

  static Object twoPhases() throws Exception {
    Xid name = new Name();
    PGXADataSource source = new PGXADataSource();
    source.setURL(URL);
    source.setUser(env("PGUSER"));
    source.setPassword(env("PGPASSWORD"));
    XAConnection both = source.getXAConnection();
    try (Connection connection = both.getConnection()) {
      XAResource resource = both.getXAResource();
      resource.start(name, XAResource.TMNOFLAGS);
      execute(connection, "create table if not exists phased (n int)");
      execute(connection, "insert into phased values (1)");
      resource.end(name, XAResource.TMSUCCESS);
      int vote = resource.prepare(name);
      int waiting = resource.recover(XAResource.TMSTARTRSCAN | XAResource.TMENDRSCAN).length;
      resource.commit(name, false);
      String again;
      try {
        resource.commit(name, false);
        again = "no error";
      } catch (XAException error) {
        again = "error " + error.errorCode;
      }
      return vote + " " + waiting + " " + value(connection, "select count(*) > 0 from phased") + " " + again;
    } finally {
      both.close();
    }
  }

  static Object stream() throws Exception {
    try (Connection plain = connect();
        Connection connection = connect("replication", "database", "assumeMinServerVersion", "9.4", "preferQueryMode", "simple")) {
      execute(plain, "drop publication if exists streamed; create table if not exists streamed (n int primary key)");
      execute(plain, "create publication streamed for table streamed");
      PGConnection own = connection.unwrap(PGConnection.class);
      own.getReplicationAPI().createReplicationSlot().logical().withSlotName("compat_jdbc").withOutputPlugin("pgoutput").make();
      try {
        execute(plain, "delete from streamed; insert into streamed select generate_series(1, 100)");
        int inserts = 0;
        try (PGReplicationStream stream = own.getReplicationAPI().replicationStream().logical().withSlotName("compat_jdbc")
            .withSlotOption("proto_version", 1).withSlotOption("publication_names", "streamed").start()) {
          while (inserts < 100) {
            ByteBuffer message = stream.read();
            if (message.get() == 'I') inserts++;
            stream.setFlushedLSN(stream.getLastReceiveLSN());
          }
          stream.forceUpdateStatus();
        }
        return inserts;
      } finally {
        until(() -> value(plain, "select count(*) from pg_replication_slots where slot_name = 'compat_jdbc' and active").equals("0"));
        execute(plain, "select pg_drop_replication_slot('compat_jdbc')");
      }
    }
  }

  static Object whoIsLookedFor() throws Exception {
    List<Object> found = new ArrayList<>();
    for (String wanted : new String[] {"any", "primary", "secondary", "preferSecondary", "preferPrimary"}) {
      found.add(wanted + ": " + failure(() -> using(c -> value(c, "select pg_is_in_recovery()"), "targetServerType", wanted)));
    }
    return found;
  }

  static Object pool() throws Exception {
    ExecutorService workers = Executors.newFixedThreadPool(20);
    List<Future<Object>> all = new ArrayList<>();
    for (int n = 0; n < 100; n++) {
      int number = n;
      all.add(workers.submit(() -> using(connection -> Integer.parseInt(value(connection, "select " + number)))));
    }
    int sum = 0;
    for (Future<Object> one : all) sum += (Integer) one.get();
    workers.shutdown();
    return sum;
  }

  static Object notices(Connection connection) throws Exception {
    try (Statement statement = connection.createStatement()) {
      statement.execute("do $$ begin for i in 1..100 loop raise notice 'n %', i; end loop; end $$");
      int count = 0;
      for (SQLWarning each = statement.getWarnings(); each != null; each = each.getNextWarning()) count++;
      return count;
    }
  }

  static Object notifications(Connection sender) throws Exception {
    try (Connection connection = connect()) {
      execute(connection, "listen c");
      int found = 0;
      for (int n = 0; n < 20; n++) {
        execute(sender, "select pg_notify('c', repeat('x', " + (5000 + n) + "))");
        var heard = connection.unwrap(PGConnection.class).getNotifications((int) DEADLINE_MS);
        for (var each : heard) found += each.getParameter().length();
      }
      return found;
    }
  }

  static Object cursor(Connection connection) throws Exception {
    connection.setAutoCommit(false);
    try (Statement statement = connection.createStatement()) {
      statement.setFetchSize(100);
      long sum = 0;
      try (ResultSet rows = statement.executeQuery("select n from generate_series(1, 10000) n")) {
        while (rows.next()) sum += rows.getInt(1);
      }
      return sum;
    }
  }

  static Object copies(Connection connection) throws Exception {
    execute(connection, "create temp table copied (n int)");
    CopyManager copies = connection.unwrap(PGConnection.class).getCopyAPI();
    byte[] rows = "7\n".repeat(100_000).getBytes(StandardCharsets.US_ASCII);
    long in = copies.copyIn("copy copied from stdin", new ByteArrayInputStream(rows));
    ByteArrayOutputStream out = new ByteArrayOutputStream();
    long told = copies.copyOut("copy copied to stdout", out);
    String bad = failure(() -> copies.copyIn("copy copied from stdin", new ByteArrayInputStream("x\n".getBytes(StandardCharsets.US_ASCII))));
    return in + " " + told + " " + out.size() + " " + bad + " " + value(connection, "select count(*) from copied");
  }

  static Object largeObject(Connection connection) throws Exception {
    connection.setAutoCommit(false);
    LargeObjectManager objects = connection.unwrap(PGConnection.class).getLargeObjectAPI();
    long oid = objects.createLO();
    try (LargeObject object = objects.open(oid, LargeObjectManager.READWRITE)) {
      object.write(new byte[3_000_000]);
      object.seek(10);
      int got = object.read(1000).length;
      return got + " " + object.size();
    } finally {
      connection.rollback();
    }
  }

  static Object savepoints(Connection connection) throws Exception {
    connection.setAutoCommit(false);
    execute(connection, "create temp table saved (n int)");
    List<Object> found = new ArrayList<>();
    var point = connection.setSavepoint();
    found.add(failure(() -> value(connection, "select 1/0")));
    found.add(failure(() -> value(connection, "select 1")));
    connection.rollback(point);
    execute(connection, "insert into saved values (1)");
    connection.commit();
    found.add(value(connection, "select count(*) from saved"));
    return found;
  }

  static Object call(Connection connection) throws Exception {
    execute(connection, "create or replace function pg_temp.twice(n int) returns int language sql as 'select 2 * n'");
    try (CallableStatement statement = connection.prepareCall("{? = call pg_temp.twice(?)}")) {
      statement.registerOutParameter(1, Types.INTEGER);
      statement.setInt(2, 21);
      statement.execute();
      return statement.getInt(1);
    }
  }

  static Object values(Connection connection) throws Exception {
    String query = "select 1::int8, 1.5::numeric, 'ä€😀', null::int, '{1,2}'::int[]::text, '\\x00ff'::bytea::text, true, '{\"a\": 1}'::jsonb::text";
    try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(query)) {
      rows.next();
      List<Object> found = new ArrayList<>();
      for (int n = 1; n <= rows.getMetaData().getColumnCount(); n++) {
        found.add(rows.getMetaData().getColumnTypeName(n) + "=" + rows.getObject(n));
      }
      return found;
    }
  }

  static Object large(Connection connection) throws Exception {
    try (PreparedStatement statement = connection.prepareStatement("select length(?::text)")) {
      statement.setString(1, "y".repeat(20_000_000));
      try (ResultSet rows = statement.executeQuery()) {
        rows.next();
        return rows.getInt(1) + " " + value(connection, "select repeat('x', 20000000)").length();
      }
    }
  }

  static Object timeout(Connection connection) throws Exception {
    try (Statement statement = connection.createStatement()) {
      statement.setQueryTimeout(1);
      return failure(() -> statement.execute("select pg_sleep(100)")) + "; " + value(connection, "select 1");
    }
  }

  static void run(String name, Observation observation) {
    Object value;
    try {
      value = observation.make();
    } catch (Exception error) {
      value = error instanceof SQLException ? said((SQLException) error) : error.toString();
    }
    String text = String.valueOf(value).replace(env("PGPASSWORD"), "PASSWORD").replace(env("PGPORT"), "PORT");
    System.out.println(name + "\t" + text.replaceAll("\\b(PID|pid|process) \\d+", "$1 N").replaceAll("\\s*\\n\\s*", " | "));
  }

  public static void main(String[] arguments) {
    DriverManager.setLoginTimeout(60);
    run("values", () -> using(Pgjdbc::values));
    run("reported parameters", () -> using(c -> new TreeMap<>(c.unwrap(PGConnection.class).getParameterStatuses())));
    run("version", () -> using(c -> c.getMetaData().getDatabaseProductVersion()));
    run("process number", () -> using(c -> value(c, "select pg_backend_pid()").equals("" + c.unwrap(PGConnection.class).getBackendPID())));
    run("prepared at once", () -> prepared("1"));
    run("prepared later", () -> prepared("5"));
    run("prepared in binary", () -> prepared("-1"));
    run("a batch", () -> batch("false"));
    run("a rewritten batch", () -> batch("true"));
    for (String mode : new String[] {"simple", "extended", "extendedForPrepared", "extendedCacheEverything"}) {
      run("query mode " + mode, () -> using(c -> value(c, "select 1 where true"), "preferQueryMode", mode));
    }
    run("a cursor", () -> using(Pgjdbc::cursor));
    run("copies", () -> using(Pgjdbc::copies));
    run("a large object", () -> using(Pgjdbc::largeObject));
    run("large values", () -> using(Pgjdbc::large));
    run("a function's call", () -> using(Pgjdbc::call));
    run("savepoints", () -> using(Pgjdbc::savepoints));
    run("autosave", () -> using(c -> {
      c.setAutoCommit(false);
      return failure(() -> value(c, "select 1/0")) + value(c, "select 1");
    }, "autosave", "always"));
    run("errors", () -> using(c -> {
      String raise = "do $$ begin raise exception using errcode = 'AB123', message = 'm', detail = 'd', hint = 'h', column = 'c', table = 't'; end $$";
      return failure(() -> value(c, "select 1/0")) + failure(() -> value(c, "select * from nowhere")) + failure(() -> value(c, raise));
    }));
    run("notices", () -> using(Pgjdbc::notices));
    run("notifications", () -> using(Pgjdbc::notifications));
    run("a query's timeout", () -> using(Pgjdbc::timeout));
    run("cancelled by another", () -> ended("pg_cancel_backend"));
    run("terminated", () -> ended("pg_terminate_backend"));
    run("is valid", () -> using(c -> c.isValid(5)));
    run("aborted", () -> using(c -> {
      c.abort(Runnable::run);
      return c.isClosed();
    }));
    run("read only", () -> using(c -> {
      c.setReadOnly(true);
      return failure(() -> value(c, "create table never (n int)"));
    }, "readOnlyMode", "always"));
    run("options", () -> using(c -> value(c, "show statement_timeout"), "options", "-c statement_timeout=4321"));
    run("a bad option", () -> failure(() -> using(c -> null, "options", "-c no_such_setting=1")));
    run("application's name", () -> using(c -> value(c, "show application_name"), "ApplicationName", "compat"));
    run("wrong password", () -> failure(() -> using(c -> null, "password", "no")));
    run("unknown role", () -> failure(() -> using(c -> null, "user", "nobody")));
    run("unknown database", () -> failure(() -> DriverManager.getConnection(URL.replace("/" + env("PGDATABASE") + "?", "/nowhere?"), env("PGUSER"), env("PGPASSWORD"))));
    run("GSS encryption preferred", () -> using(c -> value(c, "select 1"), "gssEncMode", "prefer"));
    run("keepalive", () -> using(c -> value(c, "select 1"), "tcpKeepAlive", "true", "socketTimeout", "30", "connectTimeout", "10"));
    run("who is looked for", Pgjdbc::whoIsLookedFor);
    run("two phases", Pgjdbc::twoPhases);
    run("a logical stream", Pgjdbc::stream);
    run("many at once", Pgjdbc::pool);
    System.exit(0);
  }
}
