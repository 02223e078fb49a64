// pgx 4: its own protocol, the extended one by default.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

// told returns all that an error of the server says.
func told(err error) string {
	var from *pgconn.PgError
	if errors.As(err, &from) {
		return fmt.Sprintf("%+v", *from)
	}
	return err.Error()
}

func failure(err error) string {
	if err == nil {
		return "no error"
	}
	return told(err)
}

func connect(ctx context.Context, change func(*pgx.ConnConfig)) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig("")
	if err != nil {
		return nil, err
	}
	if change != nil {
		change(config)
	}
	return pgx.ConnectConfig(ctx, config)
}

func with(ctx context.Context, change func(*pgx.ConnConfig), work func(*pgx.Conn) (any, error)) (any, error) {
	conn, err := connect(ctx, change)
	if err != nil {
		return nil, err
	}
	defer conn.Close(context.Background())
	return work(conn)
}

func plain(work func(context.Context, *pgx.Conn) (any, error)) func(context.Context) (any, error) {
	return func(ctx context.Context) (any, error) {
		return with(ctx, nil, func(conn *pgx.Conn) (any, error) { return work(ctx, conn) })
	}
}

func refusal(change func(*pgx.ConnConfig)) func(context.Context) (any, error) {
	return func(ctx context.Context) (any, error) {
		_, err := connect(ctx, change)
		return failure(err), nil
	}
}

// asleep waits until the session with this number sleeps in a query.
func asleep(ctx context.Context, other *pgx.Conn, pid uint32) error {
	return until(ctx, func() (bool, error) {
		var found int
		err := other.QueryRow(ctx, "select count(*) from pg_stat_activity where pid = $1 and wait_event = 'PgSleep'", int(pid)).Scan(&found)
		return found == 1, err
	})
}

func ended(how string) func(context.Context) (any, error) {
	return plain(func(ctx context.Context, other *pgx.Conn) (any, error) {
		return with(ctx, nil, func(conn *pgx.Conn) (any, error) {
			outcome := make(chan error, 1)
			go func() {
				_, err := conn.Exec(ctx, "select pg_sleep(100)")
				outcome <- err
			}()
			pid := conn.PgConn().PID()
			if err := asleep(ctx, other, pid); err != nil {
				return nil, err
			}
			if _, err := other.Exec(ctx, "select "+how+"($1)", int(pid)); err != nil {
				return nil, err
			}
			return fmt.Sprint(failure(<-outcome), conn.IsClosed()), nil
		})
	})
}

func main() {
	runAll([]observation{
		{"values", plain(func(ctx context.Context, conn *pgx.Conn) (any, error) {
			rows, err := conn.Query(ctx, "select 1::int8, 1.5::numeric::text, 'ä€😀', null::int, '{1,2}'::int[], '\\x00ff'::bytea, true, '2026-02-03'::date")
			if err != nil {
				return nil, err
			}
			defer rows.Close()
			rows.Next()
			values, err := rows.Values()
			return values[:4], err
		})},
		{"parameters reported", plain(func(_ context.Context, conn *pgx.Conn) (any, error) {
			found := []string{}
			for _, name := range strings.Fields("server_version server_encoding client_encoding is_superuser DateStyle TimeZone integer_datetimes standard_conforming_strings in_hot_standby") {
				found = append(found, name+"="+conn.PgConn().ParameterStatus(name))
			}
			return found, nil
		})},
		{"process number", plain(func(ctx context.Context, conn *pgx.Conn) (any, error) {
			var pid uint32
			err := conn.QueryRow(ctx, "select pg_backend_pid()").Scan(&pid)
			return pid == conn.PgConn().PID(), err
		})},
		{"prepared", plain(func(ctx context.Context, conn *pgx.Conn) (any, error) {
			if _, err := conn.Prepare(ctx, "p", "select $1::int * 2"); err != nil {
				return nil, err
			}
			sum := 0
			for n := 0; n < 50; n++ {
				var got int
				if err := conn.QueryRow(ctx, "p", n).Scan(&got); err != nil {
					return nil, err
				}
				sum += got
			}
			return sum, nil
		})},
		{"a batch with an error", plain(func(ctx context.Context, conn *pgx.Conn) (any, error) {
			batch := &pgx.Batch{}
			for n := 0; n < 100; n++ {
				batch.Queue("select 10 / (50 - $1::int)", n)
			}
			results := conn.SendBatch(ctx, batch)
			good := 0
			var first error
			for n := 0; n < 100; n++ {
				if _, err := results.Exec(); err == nil {
					good++
				} else if first == nil {
					first = err
				}
			}
			closed := results.Close()
			var after int
			err := conn.QueryRow(ctx, "select 1").Scan(&after)
			return fmt.Sprint(good, failure(first), failure(closed), after), err
		})},
		{"copy in and out", plain(func(ctx context.Context, conn *pgx.Conn) (any, error) {
			if _, err := conn.Exec(ctx, "create temp table copied (n int, s text)"); err != nil {
				return nil, err
			}
			rows := make([][]any, 20000)
			for n := range rows {
				rows[n] = []any{n, strings.Repeat("x", n%100)}
			}
			count, err := conn.CopyFrom(ctx, pgx.Identifier{"copied"}, []string{"n", "s"}, pgx.CopyFromRows(rows))
			if err != nil {
				return nil, err
			}
			var out bytes.Buffer
			tag, err := conn.PgConn().CopyTo(ctx, &out, "copy copied to stdout")
			return fmt.Sprint(count, tag.String(), out.Len()), err
		})},
		{"a copy that fails", plain(func(ctx context.Context, conn *pgx.Conn) (any, error) {
			if _, err := conn.Exec(ctx, "create temp table small (n int check (n < 10))"); err != nil {
				return nil, err
			}
			_, first := conn.PgConn().CopyFrom(ctx, strings.NewReader(strings.Repeat("5\n", 1000)+"50\n"), "copy small from stdin")
			var n int
			err := conn.QueryRow(ctx, "select count(*) from small").Scan(&n)
			return fmt.Sprint(failure(first), n), err
		})},
		{"large", plain(func(ctx context.Context, conn *pgx.Conn) (any, error) {
			var down string
			if err := conn.QueryRow(ctx, "select repeat('x', 20000000)").Scan(&down); err != nil {
				return nil, err
			}
			var up int
			err := conn.QueryRow(ctx, "select length($1::text)", strings.Repeat("y", 20000000)).Scan(&up)
			return fmt.Sprint(len(down), up), err
		})},
		{"errors", plain(func(ctx context.Context, conn *pgx.Conn) (any, error) {
			found := []string{}
			for _, query := range []string{"select 1/0", "select * from nowhere", "do $$ begin raise exception using errcode = 'AB123', message = 'm', detail = 'd', hint = 'h', column = 'c', table = 't'; end $$"} {
				_, err := conn.Exec(ctx, query)
				found = append(found, failure(err))
			}
			return found, nil
		})},
		{"a failed transaction", plain(func(ctx context.Context, conn *pgx.Conn) (any, error) {
			tx, err := conn.Begin(ctx)
			if err != nil {
				return nil, err
			}
			_, first := tx.Exec(ctx, "select 1/0")
			_, second := tx.Exec(ctx, "select 1")
			return fmt.Sprint(failure(first), failure(second), failure(tx.Commit(ctx))), nil
		})},
		{"notices", func(ctx context.Context) (any, error) {
			found := []string{}
			heard := func(config *pgx.ConnConfig) {
				config.OnNotice = func(_ *pgconn.PgConn, notice *pgconn.Notice) { found = append(found, notice.Message) }
			}
			return with(ctx, heard, func(conn *pgx.Conn) (any, error) {
				_, err := conn.Exec(ctx, "do $$ begin for i in 1..100 loop raise notice 'n %', i; end loop; end $$")
				return fmt.Sprint(len(found), found[0], found[99]), err
			})
		}},
		{"notifications", plain(func(ctx context.Context, sender *pgx.Conn) (any, error) {
			return with(ctx, nil, func(listener *pgx.Conn) (any, error) {
				if _, err := listener.Exec(ctx, "listen c"); err != nil {
					return nil, err
				}
				found := 0
				for n := 0; n < 20; n++ {
					if _, err := sender.Exec(ctx, "select pg_notify('c', repeat('x', $1))", 5000+n); err != nil {
						return nil, err
					}
					heard, err := listener.WaitForNotification(ctx)
					if err != nil {
						return nil, err
					}
					found += len(heard.Payload)
				}
				return found, nil
			})
		})},
		{"a context that ends", plain(func(ctx context.Context, conn *pgx.Conn) (any, error) {
			short, stop := context.WithTimeout(ctx, 200*time.Millisecond)
			defer stop()
			_, err := conn.Exec(short, "select pg_sleep(100)")
			return fmt.Sprint(errors.Is(err, context.DeadlineExceeded), conn.IsClosed()), nil
		})},
		{"a cancel request", plain(func(ctx context.Context, other *pgx.Conn) (any, error) {
			return with(ctx, nil, func(conn *pgx.Conn) (any, error) {
				outcome := make(chan error, 1)
				go func() {
					_, err := conn.Exec(ctx, "select pg_sleep(100)")
					outcome <- err
				}()
				if err := asleep(ctx, other, conn.PgConn().PID()); err != nil {
					return nil, err
				}
				asked := conn.PgConn().CancelRequest(ctx)
				said := failure(<-outcome)
				var n int
				err := conn.QueryRow(ctx, "select 1").Scan(&n)
				return fmt.Sprint(failure(asked), said, n), err
			})
		})},
		{"cancelled by another", ended("pg_cancel_backend")},
		{"terminated", ended("pg_terminate_backend")},
		{"statement timeout", func(ctx context.Context) (any, error) {
			set := func(config *pgx.ConnConfig) { config.RuntimeParams["statement_timeout"] = "100" }
			return with(ctx, set, func(conn *pgx.Conn) (any, error) {
				_, err := conn.Exec(ctx, "select pg_sleep(100)")
				return failure(err), nil
			})
		}},
		{"the simple protocol", func(ctx context.Context) (any, error) {
			simple := func(config *pgx.ConnConfig) { config.PreferSimpleProtocol = true }
			return with(ctx, simple, func(conn *pgx.Conn) (any, error) {
				var n int
				err := conn.QueryRow(ctx, "select $1::int + 1", 41).Scan(&n)
				return n, err
			})
		}},
		{"describing each time", func(ctx context.Context) (any, error) {
			describe := func(config *pgx.ConnConfig) { config.BuildStatementCache = nil }
			return with(ctx, describe, func(conn *pgx.Conn) (any, error) {
				var n int
				err := conn.QueryRow(ctx, "select $1::int + 1", 41).Scan(&n)
				return n, err
			})
		}},
		{"wrong password", refusal(func(config *pgx.ConnConfig) { config.Password = "no" })},
		{"unknown role", refusal(func(config *pgx.ConnConfig) { config.User = "nobody" })},
		{"unknown database", refusal(func(config *pgx.ConnConfig) { config.Database = "nowhere" })},
		{"bad option", refusal(func(config *pgx.ConnConfig) { config.RuntimeParams["no_such_setting"] = "1" })},
		{"who is looked for", func(ctx context.Context) (any, error) {
			found := []string{}
			for _, wanted := range []string{"any", "read-write", "read-only", "primary", "standby", "prefer-standby"} {
				config, err := pgx.ParseConfig("target_session_attrs=" + wanted)
				if err != nil {
					found = append(found, wanted+": "+err.Error())
					continue
				}
				conn, err := pgx.ConnectConfig(ctx, config)
				found = append(found, wanted+": "+failure(err))
				if err == nil {
					conn.Close(ctx)
				}
			}
			return found, nil
		}},
		{"a pool", func(ctx context.Context) (any, error) {
			pool, err := pgxpool.Connect(ctx, "pool_max_conns=20")
			if err != nil {
				return nil, err
			}
			defer pool.Close()
			var group sync.WaitGroup
			var lock sync.Mutex
			sum := 0
			for n := 0; n < 200; n++ {
				group.Add(1)
				go func(n int) {
					defer group.Done()
					var got int
					if pool.QueryRow(ctx, "select $1::int", n).Scan(&got) == nil {
						lock.Lock()
						sum += got
						lock.Unlock()
					}
				}(n)
			}
			group.Wait()
			return sum, nil
		}},
		{"large objects", plain(func(ctx context.Context, conn *pgx.Conn) (any, error) {
			tx, err := conn.Begin(ctx)
			if err != nil {
				return nil, err
			}
			defer tx.Rollback(ctx)
			objects := tx.LargeObjects()
			oid, err := objects.Create(ctx, 0)
			if err != nil {
				return nil, err
			}
			object, err := objects.Open(ctx, oid, pgx.LargeObjectModeRead|pgx.LargeObjectModeWrite)
			if err != nil {
				return nil, err
			}
			written, err := object.Write(bytes.Repeat([]byte("z"), 3000000))
			return written, err
		})},
		{"encryption", plain(func(_ context.Context, conn *pgx.Conn) (any, error) {
			return fmt.Sprintf("%T", conn.PgConn().Conn()) + " " + os.Getenv("COMPAT_WAY"), nil
		})},
	})
}
