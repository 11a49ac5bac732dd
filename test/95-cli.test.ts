// 95-cli: the command line: exit statuses, what goes where, plain lines in a pipe, bars on a terminal.

import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { checkpointSync, restoreSync, support, type Support } from 'ebpf-ckpt';
import { Watcher, type CDemoReport } from '../dist/cli/c-demonstration';
import { demonstrate, type DemoEngine, type DemoReport } from '../dist/cli/demonstration';
import { life, SIDE } from '../dist/cli/life';
import { counts } from './counts';
import { run, type Ended } from './support/child';

const main = join(__dirname, '..', 'dist', 'cli', 'main.js');
const size = ['--size', String(counts.demoMiB)];

const cli = (...args: string[]): Promise<Ended> => run(process.execPath, [main, ...args]);

/** On a terminal of its own. */
const onTerminal = (env: NodeJS.ProcessEnv, ...args: string[]): Promise<Ended> =>
  run('script', ['--quiet', '--return', '--command', [process.execPath, main, ...args].map((word) => `'${word}'`).join(' '), '/dev/null'], {
    TERM: 'xterm',
    ...env,
  });

const silent = { phase: () => ({ update: () => undefined, finish: () => undefined }) };

type Line = Parameters<Watcher['take']>[0];

const { version } = JSON.parse(readFileSync(join(__dirname, '..', 'package.json'), 'utf8')) as { version: string };

describe('the command line', function () {
  this.timeout(60_000 * counts.patience);

  for (const [what, args, words] of [
    ['no command', [], /Expected a command/],
    ['an unknown command', ['fly'], /Unknown command 'fly'/],
    ['an unknown option', ['--fly'], /--fly/],
    ['an unknown option of a command', ['doctor', '--fly'], /--fly/],
    ['an argument too many', ['doctor', 'now'], /now/],
    ['a size that is no number', ['demo', '--size', 'big'], /--size/],
    ['a size of nothing', ['demo', '--size', '0'], /--size/],
    ['an option without its value', ['demo', '--size'], /--size/],
  ] as [string, string[], RegExp][]) {
    it(`${what}: exit status 2, the usage on stderr, nothing on stdout`, async () => {
      const { status, stdout, stderr } = await cli(...args);
      expect([status, stdout]).to.deep.equal([2, '']);
      expect(stderr).to.match(words).and.include('Usage: ebpf-ckpt');
    });
  }

  it('--help tells the commands', async () => {
    const { status, stdout, stderr } = await cli('--help');
    expect([status, stderr]).to.deep.equal([0, '']);
    expect(stdout).to.include('doctor').and.include('demo');
  });

  it('--help after a command tells its options', async () => {
    const { status, stdout } = await cli('demo', '--help');
    expect(status).to.equal(0);
    expect(stdout).to.include('--size').and.include('--json');
  });

  it('--version tells that of the package', async () => {
    const { version } = JSON.parse(readFileSync(join(__dirname, '..', 'package.json'), 'utf8')) as { version: string };
    expect(await cli('--version')).to.deep.include({ status: 0, stdout: `${version}\n` });
  });

  describe('doctor', () => {
    it('has a line for everything it looks at, plain in a pipe, and exit status 0', async () => {
      const { status, stdout } = await cli('doctor');
      expect(status).to.equal(0);
      const facts = ['kernel', 'BTF', 'lockdown', 'tracepoint ids', 'seccomp', 'CAP_BPF', 'CAP_PERFMON', 'CAP_SYS_ADMIN'];
      for (const name of [...facts, 'writer', 'VMA walk', 'mapping query', 'page scan']) {
        expect(stdout).to.match(new RegExp(`^${name} +(ok|no|-) +\\S`, 'm'));
      }
      expect(stdout).to.include(support().release).and.include('Checkpoints work here.').and.not.include('\x1b');
    });

    it('--json tells the facts of support()', async () => {
      const { status, stdout } = await cli('doctor', '--json');
      expect(status).to.equal(0);
      expect(JSON.parse(stdout)).to.deep.equal(JSON.parse(JSON.stringify(support())));
    });

    it('tells what is missing and what grants it, with exit status 1', async () => {
      const drop = ['--bounding-set', '-bpf,-perfmon,-sys_admin', '--inh-caps', '-all', process.execPath, main, 'doctor'];
      const [plain, json] = await Promise.all([run('setpriv', drop), run('setpriv', [...drop, '--json'])]);
      expect([plain.status, json.status]).to.deep.equal([1, 1]);
      const { ok, problems } = JSON.parse(json.stdout) as Support;
      expect(ok).to.equal(false);
      const fatal = problems.filter((problem) => problem.fatal);
      expect(fatal.map(({ code }) => code)).to.include('ERR_CKPT_CAPABILITY');
      for (const { message, fix } of fatal) expect(plain.stdout).to.include(message).and.include(fix.split('\n')[0]);
      expect(plain.stdout)
        .to.match(/^CAP_BPF +-/m)
        .and.include('Checkpoints do not work here.');
    });

    it('has colours on a terminal, none for NO_COLOR', async () => {
      const [colourful, plain] = await Promise.all([onTerminal({ NO_COLOR: '' }, 'doctor'), onTerminal({ NO_COLOR: '1' }, 'doctor')]);
      expect([colourful.status, plain.status]).to.deep.equal([0, 0]);
      expect(colourful.stdout).to.include('\x1b[32m');
      expect(plain.stdout).to.include('Checkpoints work here.').and.not.include('\x1b');
    });
  });

  describe('demo', () => {
    it('passes, with a plain line for each phase in a pipe', async () => {
      const { status, stdout, stderr } = await cli('demo', ...size);
      expect(status, stdout + stderr).to.equal(0);
      for (const phase of ['checkpoint, page by page', 'restore, page by page', 'checkpoint, bulk', 'restore, bulk']) {
        expect(stdout).to.match(new RegExp(`^${phase} +[\\d.]+ MiB in [\\d.]+ ms`, 'm'));
        expect(stdout).to.match(new RegExp(`^ +${phase} +[\\d.]+ GB/s +[\\d.]+ x memcpy$`, 'm'));
      }
      expect(stdout)
        .to.include(`writer: ${support().writer}`)
        .and.match(/memcpy +[\d.]+ GB\/s/);
      for (const step of ['save', 'recover']) {
        expect(stdout).to.match(new RegExp(`^C program: ${step} +[\\d.]+ MiB in [\\d.]+ ms`, 'm'));
        expect(stdout).to.match(new RegExp(`^ +C program, ${step} +[\\d.]+ GB/s +[\\d.]+ x memcpy$`, 'm'));
      }
      expect(stdout).to.include('Every byte came back').and.not.include('\x1b').and.not.include('\r');
    });

    it('--json tells the outcome', async () => {
      const { status, stdout } = await cli('demo', '--json', ...size);
      expect(status).to.equal(0);
      const { ok, bytes, writer, figures, memcpyGBps, checks, c } = JSON.parse(stdout) as DemoReport & { c: CDemoReport };
      expect([ok, writer]).to.deep.equal([true, support().writer]);
      expect(bytes).to.be.greaterThan(counts.demoMiB << 20);
      for (const { checkpointGBps, restoreGBps } of Object.values(figures))
        expect(Math.min(checkpointGBps, restoreGBps)).to.be.greaterThan(0);
      expect(memcpyGBps).to.be.greaterThan(0);
      expect(checks.length).to.be.at.least(10);
      expect([...checks, ...c.checks].every((check) => check.ok)).to.equal(true);
      expect(c.bytes).to.be.at.least(counts.demoMiB << 20);
      expect(Math.min(c.figures.saveGBps, c.figures.recoverGBps)).to.be.greaterThan(0);
    });

    it('shows a bar that moves on a terminal', async () => {
      const { status, stdout } = await onTerminal({ NO_COLOR: '' }, 'demo', '--size', '8');
      expect(status, stdout).to.equal(0);
      expect(stdout).to.include('\r\x1b[2K').and.include('█');
    });

    it('fails without the capabilities, and says where to look', async () => {
      const { status, stderr } = await run('setpriv', [
        '--bounding-set',
        '-bpf,-sys_admin',
        '--inh-caps',
        '-all',
        process.execPath,
        main,
        'demo',
        ...size,
      ]);
      expect(status).to.equal(1);
      expect(stderr).to.include('ERR_CKPT_CAPABILITY').and.include('ebpf-ckpt doctor').and.not.include('    at ');
    });

    const restoresButOneBit: DemoEngine['restoreSync'] = (ckpt, options) => {
      const result = restoreSync(ckpt, options);
      const last = lastRegions.at(-2) as Buffer;
      last.writeUInt8(last.readUInt8(last.length - 1) ^ 1, last.length - 1);
      return result;
    };
    let lastRegions: readonly unknown[] = [];
    const engine = (restore: DemoEngine['restoreSync']): DemoEngine => ({
      checkpointSync: (options) => {
        lastRegions = options.regions as readonly unknown[];
        return checkpointSync(options);
      },
      restoreSync: restore,
    });

    it('sees one bit that did not come back', () => {
      expect(demonstrate(2, silent, engine(restoreSync)).ok).to.equal(true);
      const { ok, checks } = demonstrate(2, silent, engine(restoresButOneBit));
      expect(ok).to.equal(false);
      expect(checks.filter((check) => !check.ok).map(({ what }) => what)).to.include(
        'the checksum after the restore (page by page) is that of before',
      );
    });

    it('sees a program that did not come back', () => {
      const restoresNothing: DemoEngine['restoreSync'] = (ckpt, options) => {
        const result = restoreSync(ckpt, options);
        const memory = lastRegions.at(-1) as WebAssembly.Memory;
        new Uint8Array(memory.buffer).fill(1, 65_536);
        return result;
      };
      const { ok, checks } = demonstrate(1, silent, engine(restoresNothing));
      expect(ok).to.equal(false);
      expect(checks.filter((check) => !check.ok).map(({ what }) => what)).to.include(
        'the program goes on to the same answer (page by page)',
      );
    });
  });

  describe("the demo's C half", () => {
    const end = { event: 'end', uid: 65534, ok: true } as const;
    const sums = (after: string, ruined = 'b'): Line[] => [
      { event: 'checksum', when: 'before', value: 'a' },
      { event: 'checksum', when: 'ruined', value: ruined },
      { event: 'checksum', when: 'after', value: after },
    ];
    const steps = (['save', 'recover'] as const).map((step): Line => ({ event: 'step', step, bytes: 8 << 20, ms: 1 }));

    for (const [what, lines, status, ok] of [
      ['is content with memory that came back', [...steps, ...sums('a'), end], 0, true],
      ['sees memory that did not come back', [...steps, ...sums('c'), end], 0, false],
      ['sees memory that was never ruined', [...steps, ...sums('a', 'a'), end], 0, false],
      ['sees a program that had privileges', [...steps, ...sums('a'), { ...end, uid: 0 }], 0, false],
      ['sees a program that failed', [...steps, ...sums('a'), end], 1, false],
      ['sees a program that was cut off', [...steps, ...sums('a')], 0, false],
      ['sees a program that was never served', [], 1, false],
    ] as [string, Line[], number, boolean][])
      it(what, () => {
        const watcher = new Watcher(silent);
        for (const line of lines) watcher.take(line);
        expect(watcher.report(8, status).ok).to.equal(ok);
      });
  });

  describe('paths', () => {
    it('tells where library, header and pkg-config file lie', async () => {
      const { status, stdout } = await cli('paths', '--json');
      expect(status).to.equal(0);
      const found = JSON.parse(stdout) as Record<string, string>;
      expect(Object.keys(found)).to.deep.equal(['library', 'archive', 'header', 'pkgConfig']);
      for (const path of Object.values(found)) expect(existsSync(path), path).to.equal(true);
    });

    it('a program is compiled and linked with them, and runs', async () => {
      const folder = mkdtempSync(join(tmpdir(), 'ebpf-ckpt-test-'));
      try {
        const source = join(folder, 'program.c');
        writeFileSync(source, '#include <ebpf_ckpt.h>\n#include <stdio.h>\nint main(void) { return puts(ckpt_version()) < 0; }\n');
        const compile = `eval "cc '${source}' -o '${join(folder, 'program')}' $(pkg-config --cflags --libs ebpf-ckpt)"`;
        const paths = await cli('paths', '--pkg-config');
        const compiled = await run('sh', ['-c', compile], { PKG_CONFIG_PATH: paths.stdout.trim() });
        expect(compiled.status, compiled.stderr).to.equal(0);
        expect((await run(join(folder, 'program'), [])).stdout).to.equal(`${version}\n`);
      } finally {
        rmSync(folder, { recursive: true });
      }
    });
  });

  it("the demo's WebAssembly program plays Life", () => {
    const program = life();
    program.seed(42);
    program.step(30);
    expect(program.answer()).to.equal(lifeByHand(42, 30));
  });
});

/** The same game in plain JavaScript. */
function lifeByHand(seed: number, generations: number): number {
  let x = seed;
  let cells = Uint8Array.from({ length: SIDE * SIDE }, () => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return x >>> 31;
  });
  const at = (row: number, column: number): number => cells[((row + SIDE) % SIDE) * SIDE + ((column + SIDE) % SIDE)] as number;
  for (let generation = 0; generation < generations; generation++) {
    cells = cells.map((alive, index) => {
      const [row, column] = [Math.floor(index / SIDE), index % SIDE];
      let neighbours = -alive;
      for (const dy of [-1, 0, 1]) for (const dx of [-1, 0, 1]) neighbours += at(row + dy, column + dx);
      return neighbours === 3 || (neighbours === 2 && alive === 1) ? 1 : 0;
    });
  }
  let hash = 0x811c9dc5 | 0;
  for (const value of [generations, ...cells]) hash = Math.imul(hash ^ value, 0x01000193);
  return hash;
}
