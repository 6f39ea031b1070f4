//! The tables of known projects, as the projects make them, with some users.
//!
//! `one.example` is a domain with everything, `off.example` is switched off, `alias.example` is an
//! alias of `one.example`, `backup.example` is a domain that this host is only a backup MX for,
//! `all.example` has a catch-all.

/// PostfixAdmin 3.3 on MariaDB.
pub const POSTFIXADMIN_MYSQL: &str = "
CREATE TABLE domain (domain varchar(255) NOT NULL, description varchar(255) CHARACTER SET utf8 NOT NULL,
  aliases int NOT NULL DEFAULT 0, mailboxes int NOT NULL DEFAULT 0, maxquota bigint NOT NULL DEFAULT 0,
  quota bigint NOT NULL DEFAULT 0, transport varchar(255) NOT NULL, backupmx tinyint(1) NOT NULL DEFAULT 0,
  created datetime NOT NULL DEFAULT '2000-01-01 00:00:00', modified datetime NOT NULL DEFAULT '2000-01-01 00:00:00',
  active tinyint(1) NOT NULL DEFAULT 1, password_expiry int DEFAULT 0, PRIMARY KEY (domain))
  ENGINE=InnoDB DEFAULT CHARSET=latin1;
CREATE TABLE mailbox (username varchar(255) NOT NULL, password varchar(255) NOT NULL,
  name varchar(255) CHARACTER SET utf8 NOT NULL, maildir varchar(255) NOT NULL, quota bigint NOT NULL DEFAULT 0,
  local_part varchar(255) NOT NULL, domain varchar(255) NOT NULL,
  created datetime NOT NULL DEFAULT '2000-01-01 00:00:00', modified datetime NOT NULL DEFAULT '2000-01-01 00:00:00',
  active tinyint(1) NOT NULL DEFAULT 1, PRIMARY KEY (username), KEY domain (domain))
  ENGINE=InnoDB DEFAULT CHARSET=latin1;
CREATE TABLE alias (address varchar(255) NOT NULL, goto text NOT NULL, domain varchar(255) NOT NULL,
  created datetime NOT NULL DEFAULT '2000-01-01 00:00:00', modified datetime NOT NULL DEFAULT '2000-01-01 00:00:00',
  active tinyint(1) NOT NULL DEFAULT 1, PRIMARY KEY (address), KEY domain (domain))
  ENGINE=InnoDB DEFAULT CHARSET=latin1;
CREATE TABLE alias_domain (alias_domain varchar(255) NOT NULL, target_domain varchar(255) NOT NULL,
  created datetime NOT NULL DEFAULT '2000-01-01 00:00:00', modified datetime NOT NULL DEFAULT '2000-01-01 00:00:00',
  active tinyint(1) NOT NULL DEFAULT 1, PRIMARY KEY (alias_domain), KEY active (active),
  KEY target_domain (target_domain)) ENGINE=InnoDB DEFAULT CHARSET=latin1;
";

/// The same on PostgreSQL and, with other words for some types, on SQLite.
pub const POSTFIXADMIN_POSTGRES: &str = "
CREATE TABLE domain (domain varchar(255) PRIMARY KEY, description varchar(255) NOT NULL DEFAULT '',
  aliases integer NOT NULL DEFAULT 0, mailboxes integer NOT NULL DEFAULT 0, maxquota bigint NOT NULL DEFAULT 0,
  quota bigint NOT NULL DEFAULT 0, transport varchar(255) DEFAULT NULL, backupmx boolean NOT NULL DEFAULT false,
  created timestamp DEFAULT CURRENT_TIMESTAMP, modified timestamp DEFAULT CURRENT_TIMESTAMP,
  active boolean NOT NULL DEFAULT true);
CREATE TABLE mailbox (username varchar(255) PRIMARY KEY, password varchar(255) NOT NULL DEFAULT '',
  name varchar(255) NOT NULL DEFAULT '', maildir varchar(255) NOT NULL DEFAULT '', quota bigint NOT NULL DEFAULT 0,
  local_part varchar(255) NOT NULL, domain varchar(255) NOT NULL REFERENCES domain(domain),
  created timestamp DEFAULT CURRENT_TIMESTAMP, modified timestamp DEFAULT CURRENT_TIMESTAMP,
  active boolean NOT NULL DEFAULT true);
CREATE TABLE alias (address varchar(255) PRIMARY KEY, goto text NOT NULL,
  domain varchar(255) NOT NULL REFERENCES domain(domain),
  created timestamp DEFAULT CURRENT_TIMESTAMP, modified timestamp DEFAULT CURRENT_TIMESTAMP,
  active boolean NOT NULL DEFAULT true);
CREATE TABLE alias_domain (alias_domain varchar(255) PRIMARY KEY,
  target_domain varchar(255) NOT NULL, created timestamp DEFAULT CURRENT_TIMESTAMP,
  modified timestamp DEFAULT CURRENT_TIMESTAMP, active boolean NOT NULL DEFAULT true);
";

/// Users for PostfixAdmin's tables.
pub const POSTFIXADMIN_USERS: &str = "
INSERT INTO domain (domain, description, transport, active) VALUES
  ('one.example', '', 'virtual', '1'), ('off.example', '', 'virtual', '0'), ('all.example', '', 'virtual', '1'),
  ('alias.example', '', 'virtual', '1');
INSERT INTO domain (domain, description, transport, active, backupmx) VALUES
  ('backup.example', '', 'relay', '1', '1');
INSERT INTO mailbox (username, password, name, maildir, local_part, domain, active) VALUES
  ('anna@one.example', 'x', 'Anna', 'one.example/anna/', 'anna', 'one.example', '1'),
  ('idle@one.example', 'x', 'Idle', 'one.example/idle/', 'idle', 'one.example', '0'),
  ('otto@off.example', 'x', 'Otto', 'off.example/otto/', 'otto', 'off.example', '1');
INSERT INTO alias (address, goto, domain, active) VALUES
  ('anna@one.example', 'anna@one.example', 'one.example', '1'),
  ('idle@one.example', 'idle@one.example', 'one.example', '1'),
  ('info@one.example', 'anna@one.example,a_c@far.example', 'one.example', '1'),
  ('gone@one.example', 'anna@one.example', 'one.example', '0'),
  ('otto@off.example', 'otto@off.example', 'off.example', '1'),
  ('@all.example', 'anna@one.example', 'all.example', '1');
INSERT INTO alias_domain (alias_domain, target_domain, active) VALUES ('alias.example', 'one.example', '1');
";

/// iRedMail 1.x on MariaDB.
pub const IREDMAIL_MYSQL: &str = "
CREATE TABLE domain (domain varchar(255) NOT NULL DEFAULT '', description text, transport varchar(255) NOT NULL DEFAULT 'dovecot',
  backupmx tinyint(1) NOT NULL DEFAULT 0, settings text, expired datetime NOT NULL DEFAULT '9999-12-31 00:00:00',
  active tinyint(1) NOT NULL DEFAULT 1, PRIMARY KEY (domain)) ENGINE=InnoDB DEFAULT CHARSET=utf8;
CREATE TABLE mailbox (username varchar(255) NOT NULL DEFAULT '', password varchar(255) NOT NULL DEFAULT '',
  name varchar(255) NOT NULL DEFAULT '', maildir varchar(255) NOT NULL DEFAULT '', quota bigint NOT NULL DEFAULT 0,
  domain varchar(255) NOT NULL DEFAULT '', enabledeliver tinyint(1) NOT NULL DEFAULT 1,
  enablelda tinyint(1) NOT NULL DEFAULT 1, active tinyint(1) NOT NULL DEFAULT 1, PRIMARY KEY (username))
  ENGINE=InnoDB DEFAULT CHARSET=utf8;
CREATE TABLE alias (address varchar(255) NOT NULL DEFAULT '', name varchar(255) NOT NULL DEFAULT '',
  accesspolicy varchar(30) NOT NULL DEFAULT '', domain varchar(255) NOT NULL DEFAULT '',
  active tinyint(1) NOT NULL DEFAULT 1, PRIMARY KEY (address)) ENGINE=InnoDB DEFAULT CHARSET=utf8;
CREATE TABLE forwardings (id bigint unsigned NOT NULL AUTO_INCREMENT, address varchar(255) NOT NULL DEFAULT '',
  forwarding varchar(255) NOT NULL DEFAULT '', domain varchar(255) NOT NULL DEFAULT '',
  dest_domain varchar(255) NOT NULL DEFAULT '', is_maillist tinyint(1) NOT NULL DEFAULT 0,
  is_list tinyint(1) NOT NULL DEFAULT 0, is_forwarding tinyint(1) NOT NULL DEFAULT 0,
  is_alias tinyint(1) NOT NULL DEFAULT 0, active tinyint(1) NOT NULL DEFAULT 1, PRIMARY KEY (id),
  UNIQUE KEY address (address, forwarding)) ENGINE=InnoDB DEFAULT CHARSET=utf8;
CREATE TABLE alias_domain (alias_domain varchar(255) NOT NULL, target_domain varchar(255) NOT NULL,
  active tinyint(1) NOT NULL DEFAULT 1, PRIMARY KEY (alias_domain)) ENGINE=InnoDB DEFAULT CHARSET=utf8;
";

/// The same on PostgreSQL, where iRedMail has small numbers for what is true or false.
pub const IREDMAIL_POSTGRES: &str = "
CREATE TABLE domain (domain varchar(255) PRIMARY KEY, description text, transport varchar(255) NOT NULL DEFAULT 'dovecot',
  backupmx int2 NOT NULL DEFAULT 0, settings text, active int2 NOT NULL DEFAULT 1);
CREATE TABLE mailbox (username varchar(255) PRIMARY KEY, password varchar(255) NOT NULL DEFAULT '',
  name varchar(255) NOT NULL DEFAULT '', maildir varchar(255) NOT NULL DEFAULT '', quota int8 NOT NULL DEFAULT 0,
  domain varchar(255) NOT NULL DEFAULT '', enabledeliver int2 NOT NULL DEFAULT 1,
  enablelda int2 NOT NULL DEFAULT 1, active int2 NOT NULL DEFAULT 1);
CREATE TABLE alias (address varchar(255) PRIMARY KEY, name varchar(255) NOT NULL DEFAULT '',
  accesspolicy varchar(30) NOT NULL DEFAULT '', domain varchar(255) NOT NULL DEFAULT '', active int2 NOT NULL DEFAULT 1);
CREATE TABLE forwardings (id serial PRIMARY KEY, address varchar(255) NOT NULL DEFAULT '',
  forwarding varchar(255) NOT NULL DEFAULT '', domain varchar(255) NOT NULL DEFAULT '',
  dest_domain varchar(255) NOT NULL DEFAULT '', is_maillist int2 NOT NULL DEFAULT 0, is_list int2 NOT NULL DEFAULT 0,
  is_forwarding int2 NOT NULL DEFAULT 0, is_alias int2 NOT NULL DEFAULT 0, active int2 NOT NULL DEFAULT 1);
CREATE UNIQUE INDEX idx_forwardings_address_forwarding ON forwardings (address, forwarding);
CREATE TABLE alias_domain (alias_domain varchar(255) PRIMARY KEY, target_domain varchar(255) NOT NULL,
  active int2 NOT NULL DEFAULT 1);
";

/// Users for iRedMail's tables.
pub const IREDMAIL_USERS: &str = "
INSERT INTO domain (domain, active, backupmx) VALUES ('one.example', 1, 0), ('off.example', 0, 0),
  ('all.example', 1, 0), ('backup.example', 1, 1);
INSERT INTO mailbox (username, domain, active) VALUES ('anna@one.example', 'one.example', 1),
  ('idle@one.example', 'one.example', 0), ('otto@off.example', 'off.example', 1);
INSERT INTO alias (address, domain, active) VALUES ('info@one.example', 'one.example', 1),
  ('gone@one.example', 'one.example', 0);
INSERT INTO forwardings (address, forwarding, domain, dest_domain, is_list, is_forwarding, active) VALUES
  ('anna@one.example', 'anna@one.example', 'one.example', 'one.example', 0, 1, 1),
  ('idle@one.example', 'idle@one.example', 'one.example', 'one.example', 0, 1, 1),
  ('otto@off.example', 'otto@off.example', 'off.example', 'off.example', 0, 1, 1),
  ('info@one.example', 'anna@one.example', 'one.example', 'one.example', 1, 0, 1),
  ('info@one.example', 'a_c@far.example', 'one.example', 'far.example', 1, 0, 1),
  ('gone@one.example', 'anna@one.example', 'one.example', 'one.example', 1, 0, 1),
  ('all.example', 'anna@one.example', 'all.example', 'one.example', 0, 0, 1);
INSERT INTO alias_domain (alias_domain, target_domain, active) VALUES ('alias.example', 'one.example', 1);
";

/// The tables of the ISPmail tutorial, the same everywhere but for the type of the number.
pub const VIRTUAL_USERS: &str = "
CREATE TABLE virtual_domains (id int NOT NULL PRIMARY KEY, name varchar(50) NOT NULL);
CREATE TABLE virtual_users (id int NOT NULL PRIMARY KEY, domain_id int NOT NULL, email varchar(100) NOT NULL UNIQUE,
  password varchar(150) NOT NULL, quota bigint NOT NULL DEFAULT 0,
  FOREIGN KEY (domain_id) REFERENCES virtual_domains(id) ON DELETE CASCADE);
CREATE TABLE virtual_aliases (id int NOT NULL PRIMARY KEY, domain_id int NOT NULL, source varchar(100) NOT NULL,
  destination varchar(100) NOT NULL, FOREIGN KEY (domain_id) REFERENCES virtual_domains(id) ON DELETE CASCADE);
INSERT INTO virtual_domains (id, name) VALUES (1, 'one.example'), (2, 'all.example');
INSERT INTO virtual_users (id, domain_id, email, password) VALUES (1, 1, 'anna@one.example', 'x');
INSERT INTO virtual_aliases (id, domain_id, source, destination) VALUES
  (1, 1, 'info@one.example', 'anna@one.example'), (2, 1, 'info@one.example', 'a_c@far.example'),
  (3, 2, '@all.example', 'anna@one.example');
";
