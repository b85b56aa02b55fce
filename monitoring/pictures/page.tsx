// Draws one dashboard from recorded answers with Grafana's own components: overrides, units, thresholds, transformations and
// colours are those of @grafana/data, panels those of @grafana/ui. Only the timeline of states is drawn here, since
// @grafana/ui has none; the arrangement on the page is the dashboard's own grid.

import { useEffect, useState } from 'react';
import type { ReactNode } from 'react';
import { createRoot } from 'react-dom/client';
import {
  applyFieldOverrides, createTheme, dateTime, FieldConfigOptionsRegistry, FieldType, getDisplayProcessor,
  getDisplayValueAlignmentFactors, getFieldDisplayName, getFieldDisplayValues, standardFieldConfigEditorRegistry, standardTransformers,
  standardTransformersRegistry, ThemeContext, toDataFrame, transformDataFrame,
} from '@grafana/data';
import type { DataFrame, Field, TimeRange } from '@grafana/data';
import { BarGauge, BigValue, GlobalStyles, PanelChrome, Table, TimeSeries, VizRepeater } from '@grafana/ui';

type Series = { metric: Record<string, string>; value?: [number, string]; values?: [number, string][] };
type Shown = { dashboard: any; variables: Record<string, string>; answers: Record<string, Series[]> };
declare const ANSWERS: { start: number; end: number; dashboards: Record<string, Shown> };

const CELL = 30, GAP = 8, WIDTH = 1600, MARGIN = 16;
const theme = createTheme({ colors: { mode: location.hash.endsWith('light') ? 'light' : 'dark' } });
const name = location.hash.slice(1).split(',')[0];
const { dashboard, variables, answers } = ANSWERS.dashboards[name];
const from = dateTime(ANSWERS.start * 1000), to = dateTime(ANSWERS.end * 1000);
const range: TimeRange = { from, to, raw: { from, to } };
const replace = (text: string) => text;

/** Every setting of a field that the dashboards use, so that overrides find it. */
const SETTINGS = ['unit', 'min', 'max', 'decimals', 'thresholds', 'mappings', 'color', 'noValue'];
const CUSTOM = [
  'axisPlacement', 'drawStyle', 'lineStyle', 'lineWidth', 'fillOpacity', 'stacking', 'hideFrom', 'cellOptions', 'width',
];
const setting = (path: string, isCustom: boolean): any => ({
  id: isCustom ? `custom.${path}` : path, path, isCustom, name: path, editor: () => null, override: () => null,
  process: (value: unknown) => value, shouldApply: () => true,
});
const settings = () => [...SETTINGS.map((path) => setting(path, false)), ...CUSTOM.map((path) => setting(path, true))];
standardFieldConfigEditorRegistry.setInit(() => settings());
const registry = new FieldConfigOptionsRegistry(() => settings());
standardTransformersRegistry.setInit(() =>
  [standardTransformers.mergeTransformer, standardTransformers.joinByFieldTransformer,
    standardTransformers.organizeFieldsTransformer].map((transformation): any => (
    { id: transformation.id, name: transformation.name, transformation: () => Promise.resolve(transformation) })));

// "5 minutes ago" is meant from there.
Date.now = () => ANSWERS.end * 1000;

/** Below everything, which JSON cannot say. */
for (const step of dashboard.panels.flatMap(everyStep)) {
  step.value ??= -Infinity;
}

function everyStep(panel: any): any[] {
  const overridden = panel.fieldConfig.overrides.flatMap((one: any) => one.properties)
    .filter((one: any) => one.id === 'thresholds').map((one: any) => one.value);
  return [panel.fieldConfig.defaults.thresholds, ...overridden].flatMap((thresholds: any) => thresholds?.steps ?? []);
}

const number = (text: string) => (text === 'NaN' ? null : Number(text.replace('Inf', 'Infinity')));

/** A series as a frame: its labels make the legend. */
function frame(target: any, series: Series): DataFrame {
  const legend = target.legendFormat.replace(/{{\s*(\w+)\s*}}/g, (_: string, label: string) => series.metric[label] ?? '');
  const { times, values } = regular(series.values ?? [series.value!]);
  return toDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: times },
      { name: 'Value', type: FieldType.number, values, labels: series.metric,
        config: legend ? { displayNameFromDS: legend } : {} },
    ],
  });
}

/** Puts a null where samples are missing, as Prometheus' data source does. */
function regular(samples: [number, string][]) {
  const step = samples.length > 1 ? Math.min(...samples.slice(1).map(([at], n) => at - samples[n][0])) : Infinity;
  const times: number[] = [], values: (number | null)[] = [];
  samples.forEach(([at, value], n) => {
    if (n > 0 && at - samples[n - 1][0] > 1.5 * step) {
      times.push((at - step) * 1000);
      values.push(null);
    }
    times.push(at * 1000);
    values.push(number(value));
  });
  return { times, values };
}

/** An answer as a table: a column for each label, one for the value. */
function rows(target: any, found: Series[], several: boolean): DataFrame {
  const labels = [...new Set(found.flatMap((series) => Object.keys(series.metric)))].sort();
  const column = (label: string) => ({ name: label, type: FieldType.string, values: found.map((one) => one.metric[label]) });
  const value = several ? `Value #${target.refId}` : 'Value';
  return toDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: found.map((one) => one.value![0] * 1000) },
      ...labels.map(column),
      { name: value, type: FieldType.number, values: found.map((one) => number(one.value![1])) },
    ],
  });
}

/** The frames of a panel with all that its settings say. */
function useFrames(panel: any): DataFrame[] {
  const several = panel.targets.length > 1;
  const found = (target: any) => answers[`${panel.id}${target.refId}`] ?? [];
  const raw: DataFrame[] = panel.targets.flatMap((target: any) => panel.type === 'table'
    ? [rows(target, found(target), several)] : found(target).map((series: Series) => frame(target, series)));
  const [shaped, setShaped] = useState<DataFrame[]>([]);
  useEffect(() => {
    const transformed = transformDataFrame(panel.transformations, raw).subscribe(setShaped);
    return () => transformed.unsubscribe();
  }, []);
  return applyFieldOverrides({
    data: shaped, fieldConfig: panel.fieldConfig, replaceVariables: replace, theme, timeZone: 'utc',
    fieldConfigRegistry: registry,
  });
}

function values(panel: any, frames: DataFrame[]) {
  return getFieldDisplayValues({
    fieldConfig: panel.fieldConfig, reduceOptions: panel.options.reduceOptions, replaceVariables: replace, theme,
    data: frames, timeZone: 'utc',
  });
}

/** States over time: the one part that is not Grafana's. */
function Timeline({ frames, width, height }: { frames: DataFrame[]; width: number; height: number }) {
  const label = 90, span = ANSWERS.end - ANSWERS.start, row = (height - 20) / Math.max(frames.length, 1);
  const strip = (one: DataFrame, n: number) => {
    const [times, field] = one.fields;
    const display = field.display ?? getDisplayProcessor({ field, theme });
    const at = (ms: number) => ((ms / 1000 - ANSWERS.start) / span) * (width - label);
    const runs: { from: number; to: number; value: number | null }[] = [];
    times.values.forEach((ms: number, i: number) => {
      const to = times.values[i + 1] ?? ANSWERS.end * 1000, value = field.values[i], last = runs[runs.length - 1];
      if (last?.value === value) {
        last.to = to;
      } else {
        runs.push({ from: ms, to, value });
      }
    });
    return <div key={n} style={{ position: 'absolute', top: n * row, height: row, left: 0, right: 0 }}>
      <span style={{ position: 'absolute', top: row / 2 - 8, fontSize: 12 }}>{getFieldDisplayName(field, one, frames)}</span>
      {runs.filter((run) => run.value != null).map((run) => <div key={run.from} style={{
        position: 'absolute', left: label + at(run.from), width: at(run.to) - at(run.from), top: row * 0.1,
        height: row * 0.8, background: display(run.value).color, opacity: 0.75 }} />)}
    </div>;
  };
  const clock = (share: number) => dateTime((ANSWERS.start + share * span) * 1000).utc().format(span > 86400 ? 'MM/DD HH:mm' : 'HH:mm');
  return <div style={{ position: 'relative', width, height }}>
    {frames.map(strip)}
    {[0, 0.25, 0.5, 0.75].map((share) => <span key={share} style={{
      position: 'absolute', bottom: 0, left: label + share * (width - label), fontSize: 11 }}>{clock(share)}</span>)}
  </div>;
}

function Content({ panel, width, height }: { panel: any; width: number; height: number }): ReactNode {
  const frames = useFrames(panel);
  const empty = frames.every((one) => one.length === 0);
  if (panel.type === 'stat') {
    const shown = empty ? { text: panel.fieldConfig.defaults.noValue ?? '', numeric: NaN } : values(panel, frames)[0].display;
    return <BigValue theme={theme} width={width} height={height} value={shown} colorMode={panel.options.colorMode}
      graphMode={panel.options.graphMode} justifyMode={panel.options.justifyMode} textMode={panel.options.textMode} />;
  }
  if (empty) {
    return <div style={{ textAlign: 'center', paddingTop: height / 2 - 10, opacity: 0.6 }}>No data</div>;
  }
  if (panel.type === 'timeseries') {
    return <TimeSeries frames={frames} structureRev={1} width={width} height={height} timeRange={range} timeZone="utc"
      legend={panel.options.legend} />;
  }
  if (panel.type === 'table') {
    return <Table data={frames[0]} width={width} height={height} initialSortBy={panel.options.sortBy} />;
  }
  if (panel.type === 'bargauge') {
    return <VizRepeater width={width} height={height} source={frames} orientation={panel.options.orientation}
      getValues={() => values(panel, frames)} itemSpacing={8} renderCounter={0}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      minVizHeight={panel.options.minVizHeight} maxVizHeight={panel.options.maxVizHeight}
      renderValue={({ value, width, height, alignmentFactors }: any) => <BarGauge theme={theme} value={value.display}
        field={value.field} display={value.view?.getFieldDisplayProcessor(value.colIndex)} width={width} height={height}
        orientation={panel.options.orientation} displayMode={panel.options.displayMode} itemSpacing={8}
        alignmentFactors={alignmentFactors} showUnfilled={panel.options.showUnfilled}
        namePlacement={panel.options.namePlacement} />} />;
  }
  return <Timeline frames={frames} width={width} height={height} />;
}

function Page() {
  const column = (WIDTH - 2 * MARGIN + GAP) / 24;
  const bottom = Math.max(...dashboard.panels.map((panel: any) => panel.gridPos.y + panel.gridPos.h));
  const chosen = Object.entries(variables).map(([key, value]) => `${key}: ${value === '.*' ? 'All' : value}`);
  const clock = (at: typeof from) => at.clone().utc().format('YYYY-MM-DD HH:mm');
  return <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    <div style={{ position: 'relative', width: WIDTH, height: 56 + bottom * (CELL + GAP), color: theme.colors.text.primary,
      background: theme.colors.background.canvas, fontFamily: theme.typography.fontFamily }}>
      <div style={{ padding: `${MARGIN}px ${MARGIN}px 0`, display: 'flex', justifyContent: 'space-between' }}>
        <b>{dashboard.title}</b>
        <span style={{ opacity: 0.7 }}>{chosen.join('   ')}{'   '}{clock(from)} to {clock(to)} UTC</span>
      </div>
      {dashboard.panels.map((panel: any) => {
        const { x, y, w, h } = panel.gridPos;
        const width = w * column - GAP, height = h * (CELL + GAP) - GAP;
        return <div key={panel.id} style={{ position: 'absolute', left: MARGIN + x * column, top: 48 + y * (CELL + GAP) }}>
          <PanelChrome title={panel.title} description={panel.description} width={width} height={height}>
            {(inner, below) => <Content panel={panel} width={inner} height={below} />}
          </PanelChrome>
        </div>;
      })}
    </div>
  </ThemeContext.Provider>;
}

createRoot(document.getElementById('page')!).render(<Page />);
