// lib/pq, through database/sql.
package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/lib/pq"
)

// told returns all that an error of the server says.
func told(err error) string {
	var from *pq.Error
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

func with(dsn string, work func(*sql.DB) (any, error)) (any, error) {
	db, err := sql.Open("postgres", dsn)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	return work(db)
}

func plain(work func(context.Context, *sql.DB) (any, error)) func(context.Context) (any, error) {
	return func(ctx context.Context) (any, error) {
		return with("", func(db *sql.DB) (any, error) { return work(ctx, db) })
	}
}

func refusal(dsn string) func(context.Context) (any, error) {
	return func(ctx context.Context) (any, error) {
		return with(dsn, func(db *sql.DB) (any, error) { return failure(db.PingContext(ctx)), nil })
	}
}

func asleep(ctx context.Context, db *sql.DB, mark string) (int, error) {
	pid := 0
	err := until(ctx, func() (bool, error) {
		err := db.QueryRowContext(ctx, "select pid from pg_stat_activity where wait_event = 'PgSleep' and query like $1", "%"+mark+"%").Scan(&pid)
		if errors.Is(err, sql.ErrNoRows) {
			return false, nil
		}
		return err == nil, err
	})
	return pid, err
}

func ended(how string) func(context.Context) (any, error) {
	return plain(func(ctx context.Context, db *sql.DB) (any, error) {
		conn, err := db.Conn(ctx)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		outcome := make(chan error, 1)
		go func() {
			_, err := conn.ExecContext(ctx, "select pg_sleep(100) -- of "+how)
			outcome <- err
		}()
		pid, err := asleep(ctx, db, "-- of "+how)
		if err != nil {
			return nil, err
		}
		if _, err := db.ExecContext(ctx, "select "+how+"($1)", pid); err != nil {
			return nil, err
		}
		said := failure(<-outcome)
		_, after := conn.ExecContext(ctx, "select 1")
		return fmt.Sprint(said, "; ", failure(after)), nil
	})
}

func main() {
	runAll([]observation{
		{"values", plain(func(ctx context.Context, db *sql.DB) (any, error) {
			var number int64
			var exact, text string
			var none sql.NullInt64
			var list []int64
			var raw []byte
			var day time.Time
			row := db.QueryRowContext(ctx, "select 1::int8, 1.5::numeric, 'ä€😀', null::int, '{1,2}'::int[], '\\x00ff'::bytea, '2026-02-03'::date")
			err := row.Scan(&number, &exact, &text, &none, pq.Array(&list), &raw, &day)
			return fmt.Sprint(number, exact, text, none, list, raw, day), err
		})},
		{"prepared", plain(func(ctx context.Context, db *sql.DB) (any, error) {
			statement, err := db.PrepareContext(ctx, "select $1::int * 2")
			if err != nil {
				return nil, err
			}
			defer statement.Close()
			sum := 0
			for n := 0; n < 50; n++ {
				var got int
				if err := statement.QueryRowContext(ctx, n).Scan(&got); err != nil {
					return nil, err
				}
				sum += got
			}
			return sum, nil
		})},
		{"binary parameters", func(ctx context.Context) (any, error) {
			return with("binary_parameters=yes", func(db *sql.DB) (any, error) {
				var got int
				err := db.QueryRowContext(ctx, "select length($1::bytea)", []byte{0, 255, 1}).Scan(&got)
				return got, err
			})
		}},
		{"several results", plain(func(ctx context.Context, db *sql.DB) (any, error) {
			rows, err := db.QueryContext(ctx, "select 1; select 2 union select 3")
			if err != nil {
				return nil, err
			}
			defer rows.Close()
			found := []int{}
			for more := true; more; more = rows.NextResultSet() {
				for rows.Next() {
					var n int
					if err := rows.Scan(&n); err != nil {
						return nil, err
					}
					found = append(found, n)
				}
			}
			return found, rows.Err()
		})},
		{"copy in", plain(func(ctx context.Context, db *sql.DB) (any, error) {
			tx, err := db.BeginTx(ctx, nil)
			if err != nil {
				return nil, err
			}
			defer tx.Rollback()
			if _, err := tx.ExecContext(ctx, "create temp table copied (n int, s text)"); err != nil {
				return nil, err
			}
			statement, err := tx.PrepareContext(ctx, pq.CopyIn("copied", "n", "s"))
			if err != nil {
				return nil, err
			}
			for n := 0; n < 20000; n++ {
				if _, err := statement.ExecContext(ctx, n, strings.Repeat("x", n%100)); err != nil {
					return nil, err
				}
			}
			if _, err := statement.ExecContext(ctx); err != nil {
				return nil, err
			}
			if err := statement.Close(); err != nil {
				return nil, err
			}
			var count, size int
			err = tx.QueryRowContext(ctx, "select count(*), sum(length(s)) from copied").Scan(&count, &size)
			return fmt.Sprint(count, size), err
		})},
		{"large", plain(func(ctx context.Context, db *sql.DB) (any, error) {
			var down string
			if err := db.QueryRowContext(ctx, "select repeat('x', 20000000)").Scan(&down); err != nil {
				return nil, err
			}
			var up int
			err := db.QueryRowContext(ctx, "select length($1::text)", strings.Repeat("y", 20000000)).Scan(&up)
			return fmt.Sprint(len(down), up), err
		})},
		{"errors", plain(func(ctx context.Context, db *sql.DB) (any, error) {
			found := []string{}
			for _, query := range []string{"select 1/0", "select * from nowhere", "do $$ begin raise exception using errcode = 'AB123', message = 'm', detail = 'd', hint = 'h', column = 'c', table = 't'; end $$"} {
				_, err := db.ExecContext(ctx, query)
				found = append(found, failure(err))
			}
			return found, nil
		})},
		{"a failed transaction", plain(func(ctx context.Context, db *sql.DB) (any, error) {
			tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable})
			if err != nil {
				return nil, err
			}
			_, first := tx.ExecContext(ctx, "select 1/0")
			_, second := tx.ExecContext(ctx, "select 1")
			return fmt.Sprint(failure(first), failure(second), failure(tx.Commit())), nil
		})},
		{"notices", func(ctx context.Context) (any, error) {
			base, err := pq.NewConnector("")
			if err != nil {
				return nil, err
			}
			found := []string{}
			db := sql.OpenDB(pq.ConnectorWithNoticeHandler(base, func(notice *pq.Error) { found = append(found, notice.Message) }))
			defer db.Close()
			_, err = db.ExecContext(ctx, "do $$ begin for i in 1..100 loop raise notice 'n %', i; end loop; end $$")
			return fmt.Sprint(len(found)), err
		}},
		{"notifications", plain(func(ctx context.Context, db *sql.DB) (any, error) {
			listener := pq.NewListener("", time.Second, time.Second, nil)
			defer listener.Close()
			if err := listener.Listen("c"); err != nil {
				return nil, err
			}
			found := 0
			for n := 0; n < 20; n++ {
				if _, err := db.ExecContext(ctx, "select pg_notify('c', repeat('x', $1))", 5000+n); err != nil {
					return nil, err
				}
				select {
				case heard := <-listener.Notify:
					found += len(heard.Extra)
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			}
			return fmt.Sprint(found, failure(listener.Ping())), nil
		})},
		{"a context that ends", plain(func(ctx context.Context, db *sql.DB) (any, error) {
			short, stop := context.WithTimeout(ctx, 200*time.Millisecond)
			defer stop()
			_, err := db.ExecContext(short, "select pg_sleep(100)")
			_, after := db.ExecContext(ctx, "select 1")
			return fmt.Sprint(failure(err), failure(after)), nil
		})},
		{"cancelled by another", ended("pg_cancel_backend")},
		{"terminated", ended("pg_terminate_backend")},
		{"statement timeout", refusalOf("statement_timeout=100", "select pg_sleep(100)")},
		{"options", refusalOf("options='-c statement_timeout=100'", "select pg_sleep(100)")},
		{"wrong password", refusal("password=no")},
		{"unknown role", refusal("user=nobody")},
		{"unknown database", refusal("dbname=nowhere")},
		{"bad option", refusal("no_such_setting=1")},
		{"a pool", plain(func(ctx context.Context, db *sql.DB) (any, error) {
			db.SetMaxOpenConns(20)
			var group sync.WaitGroup
			var lock sync.Mutex
			sum := 0
			for n := 0; n < 200; n++ {
				group.Add(1)
				go func(n int) {
					defer group.Done()
					var got int
					if db.QueryRowContext(ctx, "select $1::int", n).Scan(&got) == nil {
						lock.Lock()
						sum += got
						lock.Unlock()
					}
				}(n)
			}
			group.Wait()
			return sum, nil
		})},
	})
}

func refusalOf(dsn string, query string) func(context.Context) (any, error) {
	return func(ctx context.Context) (any, error) {
		return with(dsn, func(db *sql.DB) (any, error) {
			_, err := db.ExecContext(ctx, query)
			return failure(err), nil
		})
	}
}
