// Writes the man pages from the binary's own help, so that they cannot say anything else: node man/build.mjs BINARY DIR
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const [binary, out] = process.argv.slice(2);
if (!out) {
  console.error('usage: node man/build.mjs BINARY DIR');
  process.exit(64);
}
const help = (...args) => execFileSync(binary, ['help', ...args], { encoding: 'utf8' });
const version = execFileSync(binary, ['version'], { encoding: 'utf8' }).match(/\d+\.\d+\.\d+/)[0];

// A line of text as roff reads it: no escapes, no requests, hyphens that can be copied.
function roff(text) {
  const names = { '…': '...', '’': '\\(cq', '−': '\\-', '×': '\\(mu' };
  const safe = text.replaceAll('\\', '\\e').replaceAll('-', '\\-').replace(/[…’−×]/g, (c) => names[c]);
  return /^[.']/.test(safe) ? `\\&${safe}` : safe;
}
const head = (name, section, title) => `.TH ${name} ${section} "" "distilld ${version}" "${title}"\n`;

// "Options:" blocks of a command's help: a line "  --name VALUE", then indented text.
function options(text) {
  const lines = (text.split('\nOptions:\n')[1] ?? '').split('\n');
  let page = '';
  for (const line of lines) {
    const option = line.match(/^ {2}(--\S+)( .*)?$/);
    if (option) page += `.TP\n.B ${roff(option[1])}${option[2] ? `\\fR\\fI${roff(option[2])}\\fR` : ''}\n`;
    else if (line.trim().startsWith('Environment:')) page += `.br\n${roff(line.trim())}\n`;
    else if (line.trim()) page += `${roff(line.trim())}\n`;
  }
  return page;
}

function mainPage() {
  const overview = help();
  const commands = [...overview.split('\nCommands:\n')[1].split('\n\n')[0].matchAll(/^ {2}(\S+) +(.+(?:\n {12,}.+)*)$/gm)];
  const codes = overview.split('Exit codes: ')[1].replace(/\s+/g, ' ').trim().replace(/\.$/, '').split('; ');
  let page = `${head('DISTILLD', 1, 'User Commands')}.SH NAME\ndistilld \\- distil BERT text classifiers
.SH SYNOPSIS
.B distilld
.I COMMAND
.RI [ OPTIONS ]
.RI [ ARGUMENTS ]
.SH DESCRIPTION
distilld is a daemon that queues experiments, trains small BERT classifiers from large ones, and shows their curves in
a browser; and a command line that talks to it or trains without it.
.SH COMMANDS\n`;
  for (const [, name] of commands) {
    if (name === 'help' || name === 'version') continue;
    const text = help(name);
    const usage = text.match(/^Usage: distilld (.*)$/m)[1];
    const prose = text.split('\nOptions:\n')[0].split('\n').slice(2).map((line) => roff(line.trim())).join('\n').trim();
    page += `.SS "${roff(usage).replaceAll('"', '\\(dq')}"\n${prose}\n${options(text)}`;
  }
  page += '.SH EXIT STATUS\n';
  for (const code of codes) {
    const [, number, meaning] = code.match(/^(\d+) (.*)$/);
    page += `.TP\n.B ${number}\n${roff(meaning)}\n`;
  }
  return `${page}.SH FILES
.TP
.I /etc/distilld/distilld.conf
The configuration; see
.BR distilld.conf (5).
.TP
.I /var/lib/distilld
The data directory of the systemd service, and of root's token, backup, restore and doctor.
Purging the Debian package deletes it, removing the package does not.
.SH SEE ALSO
.BR distilld.conf (5)\n`;
}

function configPage() {
  const [intro, ...blocks] = help('config').trim().split('\n\n');
  let page = `${head('DISTILLD.CONF', 5, 'File Formats')}.SH NAME\ndistilld.conf \\- configuration of distilld
.SH SYNOPSIS
.I /etc/distilld/distilld.conf
.SH DESCRIPTION
Read by \\fBdistilld serve\\fR and \\fBdistilld run\\fR; another file is named with \\fB\\-\\-config\\fR.
Lines are
.IR "name = value" ;
empty lines and lines that begin with # count for nothing.
A name that may be given several times adds to its list.
An unknown name or an impossible value is an error that says the line.
The environment (DISTILLD_ and the name in capitals, with underscores) is stronger than the file, and the command line
is stronger than both.
.B distilld help config
prints a file with every option.
.SH OPTIONS\n`;
  if (!intro.startsWith('# distilld.conf')) throw new Error('the sample file has another form');
  for (const block of blocks) {
    const lines = block.split('\n');
    const [, name, value] = lines.pop().match(/^#(\S+) = (.*)$/);
    page += `.TP\n.BI "${roff(name)} = " ${roff(value)}\n`;
    for (const line of lines) page += `${line.startsWith('# Default:') || line.startsWith('# One of:') ? '.br\n' : ''}${roff(line.slice(2))}\n`;
  }
  return `${page}.SH SEE ALSO\n.BR distilld (1)\n`;
}

mkdirSync(out, { recursive: true });
writeFileSync(join(out, 'distilld.1'), mainPage());
writeFileSync(join(out, 'distilld.conf.5'), configPage());
